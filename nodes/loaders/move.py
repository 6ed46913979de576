"""GGML Move: a model that another node has loaded in torch, moved to a device of ours."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...native.placement import AUTO, MIB, Placement
from .core_models import ALIASES, on_gpu_inputs
from .device_inputs import check_device, diffusion_device
from .found import found, say
from .moving import moved


class GGMLMove(io.ComfyNode):
    """The node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        kinds = [io.Model, io.Clip, io.Vae, io.ControlNet, io.UpscaleModel, io.ClipVision]
        template = io.MatchType.Template("model", allowed_types=kinds)
        return io.Schema(
            node_id="GGMLMove",
            display_name="GGML Move",
            category="loaders/GGML",
            description="Moves a model that another loader has read into memory to a Vulkan GPU or the CPU, where GGML "
            "computes it. For loaders that have no GGML node of their own.",
            search_aliases=["move model", "device", *ALIASES],
            inputs=[
                io.MatchType.Input(
                    "model", template=template,
                    tooltip="A MODEL, CLIP, VAE, CONTROL_NET, UPSCALE_MODEL or CLIP_VISION. Its weights stay in "
                    "memory besides, so a GGML loader, which reads the file itself, takes less.",
                ),
                *on_gpu_inputs("the model computes"),
            ],
            outputs=[io.MatchType.Output(template=template, display_name="model")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    async def validate_inputs(cls, device: str, engine: str = AUTO) -> bool | str:
        """Whether this machine has the device."""
        return await check_device(device, engine)

    @classmethod
    def execute(
        cls, model: Any, device: str, weights: str = AUTO, budget: int = 0, engine: str = AUTO
    ) -> io.NodeOutput:
        """The model with its weights on their way from ComfyUI's memory."""
        placement = Placement(diffusion_device(device), weights, budget * MIB, engine)
        result, sets = moved(model, placement)
        say(cls, [found(each.name, [each]) for each in sets])
        return io.NodeOutput(result)
