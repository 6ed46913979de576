"""GGML Model Patch: a file of any model patch that ComfyUI knows."""

from __future__ import annotations

from comfy_api.latest import io

from ..components.core_loading import MODEL_PATCH
from .core_models import ALIASES, CoreModelNode, file_names, on_gpu_inputs


class GGMLModelPatch(CoreModelNode):
    """The node."""

    LOADER, FOLDER, FILE = MODEL_PATCH, "model_patches", "name"

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLModelPatch",
            display_name="GGML Model Patch",
            category="loaders/GGML",
            description="Loads any model patch that ComfyUI knows, such as the ControlNets of Z-Image and "
            "Qwen-Image, and runs it on a Vulkan GPU or the CPU.",
            search_aliases=["model patch loader", "Z-Image ControlNet", "Qwen-Image DiffSynth", *ALIASES],
            inputs=[
                io.Combo.Input(
                    cls.FILE, options=file_names(cls.FOLDER),
                    tooltip="A file in models/model_patches. It must be made for the diffusion model that it is "
                    "applied to.",
                ),
                *on_gpu_inputs("the patch computes"),
            ],
            outputs=[io.ModelPatch.Output()],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip
