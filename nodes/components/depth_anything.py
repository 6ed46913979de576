"""A Depth Anything 3 in a file, for core's nodes: they call its diffusion_model once for pictures or views."""

from __future__ import annotations

from types import MethodType
from typing import Any

import comfy.model_base
import torch

from ...native.placement import Placement
from ...native.weights import WeightFileError, read_header
from .build import diffusion_model
from .core_function import with_names
from .core_module import CoreModule
from .foreign_functions import in_one_step
from .patcher import ComponentPatcher

_PLACE = "comfy.ldm.depth_anything_3."
_POSES = _PLACE + "ray_pose.get_extrinsic_from_camray"
_REFERENCE = _PLACE + "reference_view_selector.select_reference_view"


def load_depth_anything(path: str, placement: Placement, device: torch.device) -> ComponentPatcher:
    """Core's model around a component.

    device: under which ComfyUI keeps account of it. Raises WeightFileError where the file is of another model, or
    lacks some of it.
    """
    header = read_header(path)
    model: Any
    model, weights = diffusion_model(header, "a Depth Anything 3 model")
    kind = getattr(comfy.model_base, "DepthAnything3", None)  # older ComfyUIs have none
    if kind is None or not isinstance(model, kind):
        raise WeightFileError(
            f"{path} is a diffusion model ({type(model).__name__}), not a Depth Anything 3 model. Choose another file, "
            "or load it with GGML Diffusion Model."
        )
    core = model.diffusion_model
    # Camera poses by RANSAC draw samples and keep as many points as fit; of the views that are most alike two may tie,
    # and the first is to be the reference.
    _in_torch(core, "forward", _POSES)
    _in_torch(core.backbone, "get_intermediate_layers_da3", _REFERENCE)
    model.diffusion_model = CoreModule(core, weights, placement)
    model.device = torch.device("cpu")
    return ComponentPatcher(model, device, torch.device("cpu"))


def _in_torch(part: Any, method: str, path: str) -> None:
    """Have torch compute a function of core's, at this path, that a method of a part of the model calls."""
    own = getattr(type(part), method)
    function = own.__globals__[path.rpartition(".")[2]]
    setattr(part, method, MethodType(with_names(own, {path: in_one_step(function)}), part))
