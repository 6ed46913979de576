"""GGML MoGe Model: a file of a MoGe, which estimates the geometry of a picture."""

from __future__ import annotations

from comfy_api.latest import io

from ..components.core_loading import MOGE
from .core_models import ALIASES, CoreModelNode, file_names, on_gpu_inputs


class GGMLMoGeModel(CoreModelNode):
    """The node."""

    LOADER, FOLDER, FILE = MOGE, "geometry_estimation", "model_name"

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLMoGeModel",
            display_name="GGML MoGe Model",
            category="loaders/GGML",
            description="Loads a MoGe model of any kind that ComfyUI knows and runs it on a Vulkan GPU or the CPU.",
            search_aliases=["MoGe", "depth", "normals", "geometry estimation", *ALIASES],
            inputs=[
                io.Combo.Input(
                    cls.FILE, options=file_names(cls.FOLDER),
                    tooltip="A file in models/geometry_estimation.",
                ),
                *on_gpu_inputs("geometry is estimated"),
            ],
            outputs=[io.Custom("MOGE_MODEL").Output("moge_model")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip
