"""GGML Frame Interpolation: a file of a model that draws frames between those of a video."""

from __future__ import annotations

from comfy_api.latest import io

from ..components.core_loading import FRAME_INTERPOLATION
from .core_models import ALIASES, CoreModelNode, file_names, on_gpu_inputs


class GGMLFrameInterpolation(CoreModelNode):
    """The node."""

    LOADER, FOLDER, FILE = FRAME_INTERPOLATION, "frame_interpolation", "model_name"

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLFrameInterpolation",
            display_name="GGML Frame Interpolation",
            category="loaders/GGML",
            description="Loads any frame interpolation model that ComfyUI knows, such as FILM and RIFE, and runs it "
            "on a Vulkan GPU or the CPU.",
            search_aliases=["FILM", "RIFE", "VFI", "slow motion", *ALIASES],
            inputs=[
                io.Combo.Input(
                    cls.FILE, options=file_names(cls.FOLDER),
                    tooltip="A file in models/frame_interpolation.",
                ),
                *on_gpu_inputs("frames are drawn"),
            ],
            outputs=[io.Custom("INTERP_MODEL").Output("interp_model")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip
