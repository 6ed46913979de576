"""The diffusion model as ComfyUI's sampling code sees it: forward's signature, wrappers and options are core's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ...native.placement import Placement
from ...native.weights import WeightSet
from .attention_override import own_attention
from .call_arguments import join, part
from .component import Component
from .layer_shapes import LayerShapes

# Functions of other nodes that would have to run inside the model, between its layers.
REFUSED = ("patches", "patches_replace", "optimized_attention_override")
# Options that change what the model computes and are plain values.
HONOURED = ("rope_options",)


class DiffusionModule(Component):
    """Stands for a core diffusion model such as comfy.ldm.flux.model.Flux."""

    tokens = 1280  # of a prompt and of a picture of 512 x 512 pixels

    def __init__(self, core: Any, weights: WeightSet, placement: Placement) -> None:
        """core: the model on the meta device."""
        super().__init__(core, weights, placement)
        self._inner = "_forward" if hasattr(core, "_forward") else "forward"
        self._results: dict[Hashable, TreeSpec] = {}  # how results of a call are nested

    def __getattr__(self, name: str) -> Any:
        """What core reads from a model: its settings, the shapes of its layers, and what its methods compute."""
        core = self.__dict__["engine_model"].module if "engine_model" in self.__dict__ else None
        if core is None or name.startswith("__") or not hasattr(core, name):
            return super().__getattr__(name)
        value = getattr(core, name)
        if isinstance(value, torch.nn.Module):
            return LayerShapes(value, name)
        return self._computed(name) if inspect.ismethod(value) and value.__self__ is core else value

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Core's own forward, which runs the wrappers of other nodes around `_forward` below, where there is one."""
        if self._inner == "forward":
            return self._call("forward", args, kwargs)
        return type(self.engine_model.module).forward(self, *args, **kwargs)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        """Core's `_forward`, computed by the engine."""
        return self._call("_forward", args, kwargs)

    def _computed(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: self._call(name, args, kwargs)

    def _call(self, name: str, args: Any, kwargs: Any) -> Any:
        """A method of core's model, computed by the engine; results have the type of the first tensor that goes in."""
        arguments = inspect.signature(getattr(self.engine_model.module, name)).bind(*args, **kwargs).arguments
        arguments |= arguments.pop("kwargs", {})
        options = arguments.get("transformer_options")
        if options is not None:
            refuse(options)
            arguments["transformer_options"] = {each: options[each] for each in HONOURED if each in options}
        tensors: dict[str, Tensor] = {}
        structure = part(arguments, "", tensors)
        key = name, structure

        def function(core: Any, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
            with own_attention():
                flat, self._results[key] = tree_flatten(getattr(core, name)(**join(structure, tensors)))
            return tuple(flat)

        given = next(iter(tensors.values()))
        results = [x.to(given) for x in self.compute(key, function, tensors)]
        return tree_unflatten(results, self._results[key])


def refuse(options: dict[str, Any]) -> None:
    """Raise NotImplementedError naming the functions of other nodes that a traced model cannot call."""
    for name in REFUSED:
        value = options.get(name)
        if isinstance(value, dict):
            value = ", ".join(str(kind) for kind, functions in value.items() if functions)
        if value:
            raise NotImplementedError(
                f"A node in this workflow puts a function of its own into the model ({name}: {value}). "
                "A GGML model runs in another process, where it cannot be called: remove that node, "
                "or load the model with ComfyUI's own loader."
            )
