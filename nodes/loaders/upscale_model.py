"""GGML Upscale Model: a file of any upscale model that ComfyUI knows."""

from __future__ import annotations

from comfy_api.latest import io

from ..components.core_loading import UPSCALER
from .core_models import ALIASES, CoreModelNode, file_names, on_gpu_inputs


class GGMLUpscaleModel(CoreModelNode):
    """The node."""

    LOADER, FOLDER, FILE = UPSCALER, "upscale_models", "model_name"

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLUpscaleModel",
            display_name="GGML Upscale Model",
            category="loaders/GGML",
            description="Loads any upscale model that ComfyUI knows, such as ESRGAN and SwinIR, and runs it on a "
            "Vulkan GPU or the CPU.",
            search_aliases=["upscaler", "ESRGAN", "super resolution", *ALIASES],
            inputs=[
                io.Combo.Input(
                    cls.FILE, options=file_names(cls.FOLDER),
                    tooltip="A file in models/upscale_models. The number in its name, as in 4x, is usually how many "
                    "times larger pictures become.",
                ),
                *on_gpu_inputs("pictures are enlarged"),
            ],
            outputs=[io.UpscaleModel.Output()],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip
