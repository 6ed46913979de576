"""GGML CLIP Vision: a file of any vision model that ComfyUI knows."""

from __future__ import annotations

from comfy_api.latest import io

from ..components.core_loading import CLIP_VISION
from .core_models import ALIASES, BesideGPU, beside_gpu_inputs, file_names


class GGMLClipVision(BesideGPU):
    """The node."""

    LOADER, FOLDER, FILE = CLIP_VISION, "clip_vision", "clip_name"

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLClipVision",
            display_name="GGML CLIP Vision",
            category="loaders/GGML",
            description="Loads any vision model that ComfyUI knows, such as CLIP, SigLIP and DINO, and runs it on a "
            "Vulkan GPU or the CPU.",
            search_aliases=["CLIP Vision loader", "image encoder", "SigLIP", "DINO", *ALIASES],
            inputs=[
                io.Combo.Input(
                    cls.FILE, options=file_names(cls.FOLDER),
                    tooltip="A file in models/clip_vision. It must be the one that the adapter, style model or video "
                    "model was trained with.",
                ),
                *beside_gpu_inputs("pictures are encoded"),
            ],
            outputs=[io.ClipVision.Output()],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip
