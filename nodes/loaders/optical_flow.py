"""GGML Optical Flow: a file of a model that finds how things move from one frame to the next."""

from __future__ import annotations

from comfy_api.latest import io

from ..components.core_loading import OPTICAL_FLOW
from .core_models import ALIASES, CoreModelNode, file_names, on_gpu_inputs


class GGMLOpticalFlow(CoreModelNode):
    """The node."""

    LOADER, FOLDER, FILE = OPTICAL_FLOW, "optical_flow", "model_name"

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLOpticalFlow",
            display_name="GGML Optical Flow",
            category="loaders/GGML",
            description="Loads any optical flow model that ComfyUI knows, such as RAFT, and runs it on a Vulkan GPU or "
            "the CPU.",
            search_aliases=["RAFT", "motion", "warped noise", *ALIASES],
            inputs=[
                io.Combo.Input(
                    cls.FILE, options=file_names(cls.FOLDER),
                    tooltip="A file in models/optical_flow.",
                ),
                *on_gpu_inputs("motion is found"),
            ],
            outputs=[io.Custom("OPTICAL_FLOW").Output("optical_flow")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip
