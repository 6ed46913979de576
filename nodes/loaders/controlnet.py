"""GGML ControlNet: a file of any ControlNet that ComfyUI knows."""

from __future__ import annotations

from comfy_api.latest import io

from ..components.core_loading import CONTROLNET
from .core_models import ALIASES, CoreModelNode, file_names, on_gpu_inputs


class GGMLControlNet(CoreModelNode):
    """The node."""

    LOADER, FOLDER, FILE = CONTROLNET, "controlnet", "control_net_name"

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLControlNet",
            display_name="GGML ControlNet",
            category="loaders/GGML",
            description="Loads any ControlNet or T2I-Adapter that ComfyUI knows and runs it on a Vulkan GPU or the "
            "CPU.",
            search_aliases=["ControlNet loader", "T2I-Adapter", *ALIASES],
            inputs=[
                io.Combo.Input(
                    cls.FILE, options=file_names(cls.FOLDER),
                    tooltip="A file in models/controlnet. It must be made for the kind of diffusion model that it is "
                    "applied to.",
                ),
                *on_gpu_inputs("the ControlNet computes"),
            ],
            outputs=[io.ControlNet.Output()],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip
