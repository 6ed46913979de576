"""The layers of a component as other nodes see them: settings and shapes are core's, and the engine computes."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map

from ...native.trace import fakes_of, is_asked_for_shapes, weights_in
from ...native.weights import Array, ComputedArray, WeightSet, read_parameter
from .component import layers_elsewhere


class Owner(Protocol):
    """A component, as its layers see it."""

    @property
    def joined_to(self) -> object | None:
        """The component whose programs compute this one."""

    def call(self, name: str, args: Any, kwargs: Any) -> Any:
        """A method of the model, by its path in it."""

    def weights_now(self) -> WeightSet:
        """Its weights, with what nodes have changed."""

    def value_of(self, name: str) -> torch.Tensor | None:
        """The values of a parameter; None where the weights have none of that name."""

    def take(self, path: str, given: LayerWeights) -> Any:
        """Compute with another layer's weights in the place of those of the layer there."""


@dataclass(frozen=True)
class LayerWeights:
    """The weights of a layer, which another component may take."""

    owner: Owner
    path: str

    def under(self, path: str) -> Iterator[tuple[str, Array]]:
        """Each of them, named as in a layer at another path; read when they are needed."""
        weights = self.owner.weights_now()
        for name, (shape, _) in weights.shapes().items():
            if name.startswith(f"{self.path}."):
                theirs = weights.arrays.get(name)
                if theirs is None:
                    read = partial(read_parameter, weights.parameters[name])
                    theirs = ComputedArray(tuple(shape), np.dtype(np.float32), f"{weights.digest} {name}", read)
                yield path + name.removeprefix(self.path), theirs


class Layer:
    """Stands for a layer whose weights are in another process."""

    def __init__(self, layer: torch.nn.Module, path: str, owner: Owner) -> None:
        """path: of the layer in the model."""
        self.__dict__.update(_layer=layer, _path=path, _owner=owner)

    def __getattr__(self, name: str) -> Any:
        """A setting, a weight on the meta device, an inner layer, or a method of core's, which the engine computes.

        Raises NotImplementedError for anything else: not AttributeError, which core's bypass LoRA loaders
        (comfy/weight_adapter/bypass.py) log and pass over.
        """
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "state_dict":
            return lambda: LayerWeights(self._owner, self._path)
        if name == "load_state_dict":
            return lambda given, strict=True: self._owner.take(self._path, given)
        value = getattr(self._layer, name, None)
        if isinstance(value, torch.nn.Module):
            return Layer(value, f"{self._path}.{name}", self._owner)
        if isinstance(value, torch.nn.Parameter) or (value is not None and _is_setting(value)):
            return value
        if inspect.ismethod(value) and not hasattr(torch.nn.Module, name):
            return lambda *args, **kwargs: self._owner.call(f"{self._path}.{name}", args, kwargs)
        raise self._refusal()

    def __setattr__(self, name: str, value: Any) -> None:
        raise self._refusal()

    def __getitem__(self, index: int) -> Layer:
        return Layer(self._layer[index], f"{self._path}.{index}", self._owner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Computes it; raises NotImplementedError within a trace of a model that it is not joined to.

        Of a function that is one step of a trace, and is asked for shapes, it has those.
        """
        fake = next((each for each in (*args, *kwargs.values()) if isinstance(each, FakeTensor)), None)
        if fake is None or self._owner.joined_to is not None:
            return self._owner.call(f"{self._path}.forward", args, kwargs)
        if not is_asked_for_shapes():
            raise self._refusal()
        return self._shaped(fake.fake_mode, args, kwargs)

    def _shaped(self, mode: FakeTensorMode, args: Any, kwargs: Any) -> Any:
        """The results of core's own code, of tensors without values."""

        def fake(value: Any) -> Any:
            if not isinstance(value, torch.Tensor) or (isinstance(value, FakeTensor) and not value.is_inference()):
                return value
            return fakes_of(mode, {"": value})[""]

        with _disable_current_modes():
            weights, given = fakes_of(mode, weights_in(self._layer, "", ())), tree_map(fake, (args, kwargs))
        return functional_call(self._layer, weights, *given, tie_weights=False)

    def _refusal(self) -> NotImplementedError:
        return layers_elsewhere(f"reaches into the model for its layer {self._path}")


class HostLayer(Layer):
    """A layer, or the model itself, for core's own code on the host: its parameters have their values there."""

    def __getattr__(self, name: str) -> Any:
        """As the layer's own; of an inner layer, and of a method, the engine computes what can be traced."""
        value = getattr(self._layer, name)
        path = f"{self._path}.{name}" if self._path else name
        if isinstance(value, torch.nn.Module):
            has_values = next(value.parameters(), None) is not None or next(value.buffers(), None) is not None
            return HostLayer(value, path, self._owner) if has_values else value
        if isinstance(value, torch.Tensor):
            held = self._owner.value_of(path)
            return value if held is None else held
        if inspect.ismethod(value) and value.__self__ is self._layer:
            return lambda *args, **kwargs: self._owner.call(path, args, kwargs)
        return value

    def __getitem__(self, index: int) -> Layer:
        return HostLayer(self._layer[index], f"{self._path}.{index}", self._owner)


def is_plain(value: Any) -> bool:
    """Whether a value hangs on nothing that changes while it is kept: no function, and no object with attributes."""
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    if isinstance(value, torch.Tensor | enum.Enum | torch.dtype | torch.device):
        return True
    return not callable(value) and not hasattr(value, "__dict__")


def _is_setting(value: Any) -> bool:
    """Whether a value is neither computed with nor called, as numbers and configurations are; or all of several."""
    if isinstance(value, tuple | list):
        return all(_is_setting(each) for each in value)
    return not callable(value) and not isinstance(value, torch.Tensor)
