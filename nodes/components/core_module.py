"""Any torch module of core's that its nodes call: a control model, a vision or audio encoder, an upscaler."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from torch.utils._pytree import tree_leaves

from ...native.placement import Placement
from ...native.weights import WeightSet
from .patcher import ComponentPatcher
from .traced_module import TracedModule

# The layers of comfy.ops, by their classes in torch.
_LAYERS = [name for name in vars(comfy.ops.disable_weight_init) if isinstance(getattr(torch.nn, name, None), type)]


class CoreModule(TracedModule):
    """Stands for a module of core's between two nodes."""

    def __init__(self, core: torch.nn.Module, weights: WeightSet, placement: Placement, repeats: bool = False) -> None:
        """core: on the meta device. repeats: it computes at every step of a sampler, and keeps its buffers for that."""
        in_float32(core)
        super().__init__(core, weights, placement, f16_overflow=True)
        self._repeats = repeats
        self.__dict__.update({name: self._method(name) for name in _other_methods(type(core))})

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Core's class, by which nodes tell one kind of model from another with isinstance."""
        engine_model = self.__dict__.get("engine_model")
        return type(self) if engine_model is None else type(engine_model.module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As core's."""
        return self.call("forward", args, kwargs)

    def call(self, name: str, args: Any, kwargs: Any) -> Any:
        """As TracedModule; what only computing needs is given back unless it is needed again at once.

        What is made of no tensors and makes none, such as a type or an estimate of memory, is core's own.
        """
        if not _has_tensors((args, kwargs)):
            own = attrgetter(name)(self.engine_model.module)(*args, **kwargs)
            if not _has_tensors(own):
                return own
        results = super().call(name, args, kwargs)
        if not self._repeats:
            self.loaded.release()
        return results

    def _layer(self, layer: torch.nn.Module, name: str) -> Any:
        """A layer without parameters is core's own."""
        return layer if next(layer.parameters(), None) is None else super()._layer(layer, name)


def _has_tensors(value: Any) -> bool:
    return any(isinstance(each, torch.Tensor) for each in tree_leaves(value))


def _other_methods(core: type[torch.nn.Module]) -> Iterator[str]:
    """Methods of core's class that have a name of torch's and another meaning, as their parameters tell."""
    for name, method in inspect.getmembers(core, inspect.isfunction):
        torch_own = getattr(torch.nn.Module, name, None)
        if torch_own is None or name.startswith("_") or getattr(CoreModule, name) is not torch_own:
            continue
        if list(inspect.signature(method).parameters) != list(inspect.signature(torch_own).parameters):
            yield name


def in_float32(module: torch.nn.Module) -> None:
    """Make a module compute in float32, as engines do, and leave its weights as they are given to it."""
    module.to(torch.float32)
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, torch.dtype) and value.is_floating_point:
                setattr(part, name, torch.float32)
        if type(part).__module__ == comfy.ops.__name__:  # casts weights at each call, or has them quantized
            plain = next((name for name in _LAYERS if isinstance(part, getattr(torch.nn, name))), None)
            if plain:
                part.__class__ = getattr(comfy.ops.disable_weight_init, plain)


def with_components(value: Any, component: Callable[[torch.nn.Module], CoreModule], device: torch.device) -> Any:
    """A copy of an object of core's whose modules with weights, and their patchers, are components.

    component: makes the one for a module. device: under which ComfyUI keeps account of them.
    """
    made: dict[int, CoreModule] = {}

    def of(module: torch.nn.Module) -> CoreModule:
        if id(module) not in made:
            made[id(module)] = component(module)
        return made[id(module)]

    def patcher(module: torch.nn.Module) -> ComponentPatcher:
        return ComponentPatcher(of(module), device, torch.device("cpu"))

    if isinstance(value, ModelPatcher):
        return patcher(value.model)
    placed = copy.copy(value)
    for name, each in vars(value).items():
        if isinstance(each, ModelPatcher):
            setattr(placed, name, patcher(each.model))
        elif isinstance(each, torch.nn.Module) and next(each.parameters(), None) is not None:
            setattr(placed, name, of(each))
        elif isinstance(each, torch.dtype) and each.is_floating_point:
            setattr(placed, name, torch.float32)
        elif isinstance(each, torch.device):
            setattr(placed, name, device)
    return placed


def component_parts(value: Any) -> list[CoreModule]:
    """The components that an object of core's holds."""
    if isinstance(value, ModelPatcher):
        held = (value.model, getattr(value.model, "diffusion_model", None))
        return [each for each in held if isinstance(each, CoreModule)]
    found = {id(each): each for each in getattr(value, "__dict__", {}).values() if isinstance(each, CoreModule)}
    return list(found.values())


def component_patchers(value: Any) -> list[ComponentPatcher]:
    """The patchers of components that an object of core's holds."""
    if isinstance(value, ComponentPatcher):
        return [value]
    return [each for each in getattr(value, "__dict__", {}).values() if isinstance(each, ComponentPatcher)]
