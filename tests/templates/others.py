"""Models beside diffusion models, text encoders and VAEs, of their real sizes: vision encoders and the like."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tests import pack

pack.comfy()

import comfy.clip_model  # noqa: E402
import comfy.clip_vision  # noqa: E402
import comfy.image_encoders.dino3 as dino3  # noqa: E402
import comfy.ops  # noqa: E402
from comfy.ldm.lightricks.latent_upsampler import LatentUpsampler  # noqa: E402
from comfy.ldm.rt_detr.rtdetr_v4 import RTv4  # noqa: E402
from comfy.ldm.sam3.detector import SAM3Model  # noqa: E402
from comfy.text_encoders.sam3_clip import SAM3_CLIP_CONFIG  # noqa: E402
from torchvision.models.optical_flow import raft_large  # noqa: E402

from .. import checkpoints  # noqa: E402
from ..e2e import geometry_kinds  # noqa: E402
from .diffusion import DIFFUSION  # noqa: E402
from .encoders import ENCODERS  # noqa: E402

Shapes = Mapping[str, tuple[int, ...]]
_COMFY = Path(comfy.clip_vision.__file__).parent
_UPSAMPLER: dict[str, Any] = {
    "in_channels": 128, "mid_channels": 1024, "num_blocks_per_stage": 4, "dims": 3, "spatial_upsample": True,
    "temporal_upsample": False,
}  # fmt: skip
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


def _dino_v3() -> Shapes:
    return _shapes(
        dino3.DINOv3ViTModel(dino3.DINOV3_VITH_CONFIG, torch.float32, "meta", comfy.ops.manual_cast).state_dict()
    )


def open_clip_vision_h(
    width: int = 1280, positions: int = 257, projection: int = 1024, layers: int = 32, inner: int = 0
) -> Shapes:  # fmt: skip
    """The vision tower of open_clip's ViT-H-14. inner: channels of the feed-forward; 0: four times as many."""
    inner = inner or 4 * width
    found: dict[str, tuple[int, ...]] = {
        "class_embedding": (width,), "positional_embedding": (positions, width), "conv1.weight": (width, 3, 14, 14),
        "proj": (width, projection),
    }  # fmt: skip
    for norm in ("ln_pre", "ln_post", *(f"transformer.resblocks.{n}.ln_{m}" for n in range(layers) for m in (1, 2))):
        found |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for block in (f"transformer.resblocks.{n}" for n in range(layers)):
        found |= {
            f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,),
            f"{block}.attn.out_proj.weight": (width, width), f"{block}.attn.out_proj.bias": (width,),
            f"{block}.mlp.c_fc.weight": (inner, width), f"{block}.mlp.c_fc.bias": (inner,),
            f"{block}.mlp.c_proj.weight": (width, inner), f"{block}.mlp.c_proj.bias": (width,),
        }  # fmt: skip
    return found


def ltx_text_projection(video: int, audio: int) -> Shapes:
    """LTX-2.3's, from the states of Gemma 3's 49 layers. video, audio: channels."""
    return {
        f"{kind}_aggregate_embed.{end}": shape
        for kind, width in (("video", video), ("audio", audio))
        for end, shape in (("weight", (width, 3840 * 49)), ("bias", (width,)))
    }


def sam3_clip(config: Mapping[str, Any], factory: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The text encoder of SAM3, in the names of open_clip."""
    made = comfy.clip_model.CLIPTextModel(dict(config), **factory)
    return dict(checkpoints.open_clip(made.state_dict(), config["num_hidden_layers"]))


def _real_esrgan() -> Shapes:
    """RRDBNet of 23 blocks, in the names of its authors."""
    found: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, given: int, made: int) -> None:
        found.update({f"{name}.weight": (made, given, 3, 3), f"{name}.bias": (made,)})

    convolution("conv_first", 3, 64)
    for block in range(23):
        for dense in (1, 2, 3):
            for layer in range(1, 6):
                name = f"body.{block}.rdb{dense}.conv{layer}"
                convolution(name, 64 + 32 * (layer - 1), 32 if layer < 5 else 64)
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        convolution(name, 64, 64)
    convolution("conv_last", 64, 3)
    return found


def _latent_upsampler() -> torch.nn.Module:
    with torch.device("meta"):
        return LatentUpsampler(**_UPSAMPLER, operations=comfy.ops.disable_weight_init)


def _raft() -> Shapes:
    with torch.device("meta"):
        return _shapes(raft_large(weights=None).state_dict())


_LARGE: dict[str, Any] = {
    "hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24, "layer_norm_eps": 1e-6,
    "use_swiglu_ffn": False,
}  # fmt: skip


def _moge() -> Shapes:
    """MoGe 2 with normals (microsoft/MoGe, configs/train/v2.json)."""
    held = geometry_kinds.moge_v2(_LARGE, (1024, 256, 128, 64, 32), **_META).state_dict()
    return _shapes(geometry_kinds.moge_names(held, "encoder.backbone."))


# Core's configurations of vision encoders.
VISION: Mapping[str, str] = {
    "CLIP vision H": "clip_vision_config_h.json",
    "CLIP vision G": "clip_vision_config_g.json",
    "SigLIP 384": "clip_vision_siglip_384.json",
    "DINOv2 giant": "image_encoders/dino2_giant.json",
    "DINOv2 large": "image_encoders/dino2_large.json",
}
OTHERS: Mapping[str, Callable[[], Shapes]] = {
    "CLIP-L without projection": _without_projection,
    "CLIP-G of OpenCLIP": _open_clip_g,
    "Stable Audio beside": _beside("Stable Audio"),
    "Stable Audio 3 beside": _beside("Stable Audio 3"),
    "LTX-2 text projection": lambda: {"aggregate_embed.weight": (3840, 3840 * 49)},
    "LTX-2.3 text projection": lambda: ltx_text_projection(4096, 2048),
    "CLIP vision H of OpenCLIP": open_clip_vision_h,
    "DINOv3 H": _dino_v3,
    **{name: _vision(config) for name, config in VISION.items()},
    "FLUX.1 Redux": lambda: {
        "redux_up.weight": (12288, 1152), "redux_up.bias": (12288,), "redux_down.weight": (4096, 12288),
        "redux_down.bias": (4096,),
    },
    "RealESRGAN x4": _real_esrgan,
    "SAM3.1": lambda: _shapes(SAM3Model(image_model="SAM31", **_META).state_dict()),
    "CLIP of SAM3": lambda: _shapes(sam3_clip(SAM3_CLIP_CONFIG, _META)),
    "RT-DETR": lambda: _shapes(RTv4(enc_h=384, **_META).state_dict()),
    "LTX-2 latent upscaler": lambda: _shapes(_latent_upsampler().state_dict()),
    "MoGe 2 with normals": _moge,
    "Depth Anything 3 Mono": lambda: _shapes(geometry_kinds.DepthAnything3Net(**_META).state_dict()),
    "RAFT": _raft,
    "FILM": lambda: _shapes(geometry_kinds.FILMNet(**_META).state_dict()),
}  # fmt: skip
# Of the metadata of a file.
CONFIG: Mapping[str, Mapping[str, Any]] = {"LTX-2 latent upscaler": _UPSAMPLER}
FILES: Mapping[str, str] = {
    "clip_vision_h": "CLIP vision H",
    "clip_vision_g": "CLIP vision G",
    "sigclip_vision": "SigLIP 384",
    "dino_v3_vit_h": "DINOv3 H",
    "realesrgan_x4plus": "RealESRGAN x4",
    "moge_2_vitl_normal": "MoGe 2 with normals",
    "depth_anything_3_mono_large": "Depth Anything 3 Mono",
    "film_net": "FILM",
    "raft_large": "RAFT",
    "ltx-2(.3)?-spatial-upscaler": "LTX-2 latent upscaler",
}
