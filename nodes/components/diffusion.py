"""The diffusion model as ComfyUI's sampling code sees it: forward's signature, wrappers and options are core's own."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from ...native.placement import Placement
from ...native.weights import WeightSet
from . import attention_override as attention
from .call_arguments import join, part
from .component import Component

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
        self.patch_size = core.patch_size
        self._signature = inspect.signature(core._forward)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Core's own forward, which runs the wrappers of other nodes around `_forward` below."""
        return type(self.engine_model.module).forward(self, *args, **kwargs)

    def _forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Core's `_forward`, computed by the runner. x and the result: [batch, channels, height, width]."""
        arguments = self._signature.bind(*args, **kwargs).arguments
        arguments |= arguments.pop("kwargs", {})
        options = arguments.pop("transformer_options", {})
        refuse(options)
        honoured = {name: options[name] for name in HONOURED if name in options}
        tensors: dict[str, Tensor] = {}
        structure = part({**arguments, "transformer_options": honoured}, "", tensors)

        def forward(core: Any, tensors: dict[str, Tensor]) -> Tensor:
            arguments = join(structure, tensors)
            arguments["transformer_options"]["optimized_attention_override"] = attention.override
            return core._forward(**arguments)

        x = arguments["x"]
        (out,) = self.compute(structure, forward, tensors)
        return out.to(x)


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
