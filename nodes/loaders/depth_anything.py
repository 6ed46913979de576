"""GGML Depth Anything: a file of a Depth Anything 3, which estimates the depth of pictures."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...native.placement import Placement
from ..components.core_loading import HEADERS
from ..components.depth_anything import load_depth_anything
from .core_models import ALIASES, CoreModelNode, file_names, on_gpu_inputs
from .device_inputs import load_device


class GGMLDepthAnything3(CoreModelNode):
    """The node."""

    FOLDER, FILE = "geometry_estimation", "model_name"

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLDepthAnything3",
            display_name="GGML Depth Anything",
            category="loaders/GGML",
            description="Loads a Depth Anything 3 model of any size that ComfyUI knows and runs it on a Vulkan GPU or "
            "the CPU.",
            search_aliases=["DA3", "depth", "geometry estimation", *ALIASES],
            inputs=[
                io.Combo.Input(
                    cls.FILE, options=[name for name in file_names(cls.FOLDER) if name.lower().endswith(HEADERS)],
                    tooltip="A file in models/geometry_estimation. Several views of a scene need a Small or Base "
                    "model.",
                ),
                *on_gpu_inputs("depth is estimated"),
            ],
            outputs=[io.Custom("DA3_MODEL").Output("da3_model")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def load(cls, path: str, placement: Placement) -> Any:
        """As CoreModelNode.load."""
        return load_depth_anything(path, placement, load_device(placement.device))
