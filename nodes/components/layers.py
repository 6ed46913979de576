"""The layers of a component as other nodes see them: settings and shapes are core's, and the engine computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses import FakeTensor

from .component import layers_elsewhere

# call(path, args, kwargs) of a method of the model, by its path in it
Call = Callable[[str, Any, Any], Any]


class Layer:
    """Stands for a layer whose weights are in another process."""

    def __init__(self, layer: torch.nn.Module, path: str, call: Call) -> None:
        """path: of the layer in the model."""
        self.__dict__.update(_layer=layer, _path=path, _call=call)

    def __getattr__(self, name: str) -> Any:
        """A setting, a weight on the meta device, an inner layer, or a method of core's, which the engine computes.

        Raises NotImplementedError for anything else: not AttributeError, which core's bypass LoRA loaders
        (comfy/weight_adapter/bypass.py) log and pass over.
        """
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._layer, name, None)
        if isinstance(value, torch.nn.Module):
            return Layer(value, f"{self._path}.{name}", self._call)
        if isinstance(value, torch.nn.Parameter) or (value is not None and _is_setting(value)):
            return value
        if inspect.ismethod(value) and not hasattr(torch.nn.Module, name):
            return lambda *args, **kwargs: self._call(f"{self._path}.{name}", args, kwargs)
        raise self._refusal()

    def __setattr__(self, name: str, value: Any) -> None:
        raise self._refusal()

    def __getitem__(self, index: int) -> Layer:
        return Layer(self._layer[index], f"{self._path}.{index}", self._call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Computes it; raises NotImplementedError within a trace of the model, which cannot have another's weights."""
        if any(isinstance(each, FakeTensor) for each in (*args, *kwargs.values())):
            raise self._refusal()
        return self._call(f"{self._path}.forward", args, kwargs)

    def _refusal(self) -> NotImplementedError:
        return layers_elsewhere(f"reaches into the model for its layer {self._path}")


def _is_setting(value: Any) -> bool:
    """Whether a value is neither computed with nor called, as numbers and configurations are; or all of several."""
    if isinstance(value, tuple | list):
        return all(_is_setting(each) for each in value)
    return not callable(value) and not isinstance(value, torch.Tensor)
