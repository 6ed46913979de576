"""Models beside diffusion models, text encoders and VAEs, of their real sizes: vision encoders and what else there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tests import pack

pack.comfy()

import comfy.clip_vision  # noqa: E402
import comfy.ops  # noqa: E402

from .. import checkpoints  # noqa: E402
from .diffusion import DIFFUSION  # noqa: E402
from .encoders import ENCODERS  # noqa: E402

Shapes = Mapping[str, tuple[int, ...]]
_COMFY = Path(comfy.clip_vision.__file__).parent
_META: dict[str, Any] = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}


def _shapes(tensors: Mapping[str, torch.Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _without_projection() -> Shapes:
    return {name: shape for name, shape in ENCODERS["CLIP-L"].shapes().items() if name != "text_projection.weight"}


def _open_clip_g() -> Shapes:
    return _shapes(checkpoints.open_clip(checkpoints.clip(1280, 20, 5120, 32), 32))


def _beside(name: str) -> Callable[[], Shapes]:
    return lambda: DIFFUSION[name].small().beside


def _vision(config: str) -> Callable[[], Shapes]:
    def made() -> Shapes:
        said = json.loads((_COMFY / config).read_text(encoding="utf-8"))
        kind = comfy.clip_vision.IMAGE_ENCODERS[said["model_type"]]
        return _shapes(kind(said, torch.float32, "meta", comfy.ops.manual_cast).state_dict())

    return made


OTHERS: Mapping[str, Callable[[], Shapes]] = {
    "CLIP-L without projection": _without_projection,
    "CLIP-G of OpenCLIP": _open_clip_g,
    "Stable Audio beside": _beside("Stable Audio"),
    "Stable Audio 3 beside": _beside("Stable Audio 3"),
    "LTX-2 text projection": lambda: {"aggregate_embed.weight": (3840, 3840 * 49)},
    "LTX-2.3 text projection": lambda: {
        f"{kind}_aggregate_embed.{end}": shape
        for kind, width in (("video", 4096), ("audio", 2048))
        for end, shape in (("weight", (width, 3840 * 49)), ("bias", (width,)))
    },
    "CLIP vision H": _vision("clip_vision_config_h.json"),
    "CLIP vision G": _vision("clip_vision_config_g.json"),
    "SigLIP 384": _vision("clip_vision_siglip_384.json"),
    "DINOv2 giant": _vision("image_encoders/dino2_giant.json"),
    "DINOv2 large": _vision("image_encoders/dino2_large.json"),
    "FLUX.1 Redux": lambda: {
        "redux_up.weight": (12288, 1152), "redux_up.bias": (12288,), "redux_down.weight": (4096, 12288),
        "redux_down.bias": (4096,),
    },
}  # fmt: skip
CONFIG: Mapping[str, Mapping[str, Any]] = {}
FILES: Mapping[str, str] = {
    "clip_vision_h": "CLIP vision H",
    "clip_vision_g": "CLIP vision G",
    "sigclip_vision": "SigLIP 384",
}
