"""GGML Background Removal: a file of any background removal model that ComfyUI knows."""

from __future__ import annotations

from comfy_api.latest import io

from ..components.core_loading import BACKGROUND_REMOVAL
from .core_models import ALIASES, CoreModelNode, file_names, on_gpu_inputs


class GGMLBackgroundRemoval(CoreModelNode):
    """The node."""

    LOADER, FOLDER, FILE = BACKGROUND_REMOVAL, "background_removal", "bg_removal_name"

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLBackgroundRemoval",
            display_name="GGML Background Removal",
            category="loaders/GGML",
            description="Loads any background removal model that ComfyUI knows, such as BiRefNet, and runs it on a "
            "Vulkan GPU or the CPU.",
            search_aliases=["BiRefNet", "remove background", *ALIASES],
            inputs=[
                io.Combo.Input(
                    cls.FILE, options=file_names(cls.FOLDER),
                    tooltip="A file in models/background_removal.",
                ),
                *on_gpu_inputs("pictures are cut out"),
            ],
            outputs=[io.Custom("BACKGROUND_REMOVAL").Output("bg_model")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip
