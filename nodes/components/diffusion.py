"""The diffusion model as ComfyUI's sampling code sees it: forward's signature, wrappers and options are core's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from ...native.placement import Placement
from ...native.weights import WeightSet
from .traced_module import TracedModule


class DiffusionModule(TracedModule):
    """Stands for a core diffusion model such as comfy.ldm.flux.model.Flux."""

    tokens = 1280  # of a prompt and of a picture of 512 x 512 pixels
    input_words: Mapping[str, str] = {  # names as in the models' forward, in comfy/ldm
        "x": "The latent",
        "context": "The conditioning",
        "y": "The conditioning",
        "control": "The output of a ControlNet",
        "ref_latents": "A reference latent",
        "timestep": "The noise level",
        "timesteps": "The noise level",
    }

    def __init__(self, core: Any, weights: WeightSet, placement: Placement, f16_overflow: bool = False) -> None:
        """core: the model on the meta device."""
        for part in core.modules():
            for name, value in list(vars(part).items()):
                if isinstance(value, torch.device):  # where it would move its inputs
                    setattr(part, name, torch.device("cpu"))
        super().__init__(core, weights, placement, f16_overflow=f16_overflow)
        self._wraps_itself = hasattr(core, "_forward")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Core's own forward, which runs the wrappers of other nodes around `_forward` below, where there is one."""
        if not self._wraps_itself:
            return self.call("forward", args, kwargs)
        core = type(self.engine_model.module)
        calls_super = "__class__" in inspect.unwrap(core.forward).__code__.co_freevars
        posing = _posing(core)(self) if calls_super else self  # type: ignore[arg-type]
        return core.forward(posing, *args, **kwargs)

    def _forward(self, *args: Any, **kwargs: Any) -> Any:
        """Core's `_forward`, computed by the engine."""
        return self.call("_forward", args, kwargs)


@cache
def _posing(core: type[torch.nn.Module]) -> Callable[[DiffusionModule], torch.nn.Module]:
    """Makes a module an instance of core's class, which a forward that calls super() asks for."""

    class Posing(core):  # type: ignore[misc, valid-type]
        def __init__(self, module: DiffusionModule) -> None:
            object.__setattr__(self, "_module", module)

        def __getattribute__(self, name: str) -> Any:
            return getattr(object.__getattribute__(self, "_module"), name)

    return Posing
