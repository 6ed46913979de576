"""Layers of a component, of which other code may read the shapes of weights and nothing else."""

from __future__ import annotations

from typing import Any

import torch


class LayerShapes:
    """Stands for a layer whose weights are in another process."""

    def __init__(self, layer: torch.nn.Module, path: str) -> None:
        """path: of the layer in the model, for messages."""
        self.__dict__.update(_layer=layer, _path=path)

    def __getattr__(self, name: str) -> Any:
        """A weight on the meta device or an inner layer; raises NotImplementedError for anything else.

        Not AttributeError, which core's bypass LoRA loaders (comfy/weight_adapter/bypass.py) log and pass over.
        """
        value = getattr(self._layer, name, None)
        if isinstance(value, torch.nn.Parameter):
            return value
        if isinstance(value, torch.nn.Module):
            return LayerShapes(value, f"{self._path}.{name}")
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotImplementedError(_refusal(self._path))

    def __setattr__(self, name: str, value: Any) -> None:
        raise NotImplementedError(_refusal(self._path))

    def __getitem__(self, index: int) -> LayerShapes:
        return LayerShapes(self._layer[index], f"{self._path}.{index}")  # type: ignore[index]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(_refusal(self._path))


def _refusal(path: str) -> str:
    return (
        f"A node in this workflow reaches into the model for its layer {path}, as the bypass LoRA loaders do. "
        "The layers of a GGML model are in another process: for a LoRA use Load LoRA instead, else remove that "
        "node or load the model with ComfyUI's own loader."
    )
