"""Encoders of pictures and of sound: CLIP vision, SigLIP, DINO, wav2vec, Whisper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.audio_encoders.wav2vec2
import comfy.audio_encoders.whisper
import comfy.clip_model
import comfy.image_encoders.dino2
import comfy.image_encoders.dino3
import torch

from ..model_cases import Inputs
from .case import FACTORY, GELU, FamilyCase

_COMFY = Path(comfy.clip_model.__file__).parent
_ARGUMENTS = (torch.float32, "cpu", FACTORY["operations"])
_SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 3}


def _config(file: str, **config: Any) -> dict[str, Any]:
    return json.loads((_COMFY / file).read_text()) | _SMALL | config


def _vision(file: str, **config: Any) -> torch.nn.Module:
    """Pictures of 4 by 4 patches, of which the tables of positions are as large."""
    config = _config(file) | {"image_size": 56} | config
    if "projection_dim" in config:
        config["projection_dim"] = 48
    return comfy.clip_model.CLIPVisionModelProjection(config, *_ARGUMENTS)


def _dino2(file: str, **config: Any) -> torch.nn.Module:
    return comfy.image_encoders.dino2.Dinov2Model(_config(f"image_encoders/{file}.json", **config), *_ARGUMENTS)


def _dino3() -> torch.nn.Module:
    config = _SMALL | {
        "num_register_tokens": 4, "layer_norm_eps": 1e-5, "num_channels": 3, "patch_size": 16, "rope_theta": 100.0,
    }  # fmt: skip
    return comfy.image_encoders.dino3.DINOv3ViTModel(config, *_ARGUMENTS)


def _wav2vec() -> torch.nn.Module:
    return comfy.audio_encoders.wav2vec2.Wav2Vec2Model(embed_dim=128, num_heads=2, num_layers=2, **FACTORY)


def _whisper() -> torch.nn.Module:
    """Its features come of an STFT on the host. Sound is always as long as its table of positions."""
    return comfy.audio_encoders.whisper.AudioEncoder(32, 80, 64, 2, 2, **FACTORY)


def _pixels(*side: int) -> Any:
    return lambda n, s: {"pixels": torch.randn(n, 3, side[0], side[-1])}


def _growing(step: int, least: int) -> Any:
    return lambda n, s: {"pixels": torch.randn(n, 3, step * least, step * (least + s))}


def _call(m: Any, t: Inputs, layer: int | str | None = -2) -> Any:
    return m(pixel_values=t["pixels"], intermediate_output=layer)


def _call_all(m: Any, t: Inputs) -> Any:
    return _call(m, t, "all")


CASES = (
    FamilyCase("CLIP vision L", lambda: _vision("clip_vision_config_vitl.json"), _call, _pixels(56)),
    FamilyCase("CLIP vision H", lambda: _vision("clip_vision_config_h.json"), _call, _pixels(56)),
    FamilyCase("CLIP vision G", lambda: _vision("clip_vision_config_g.json"), _call, _pixels(56)),
    FamilyCase("CLIP vision L 336", lambda: _vision("clip_vision_config_vitl_336.json", image_size=84), _call,
               _pixels(84)),
    FamilyCase("CLIP vision Llava", lambda: _vision("clip_vision_config_vitl_336_llava.json", image_size=84), _call,
               _pixels(84)),
    FamilyCase("SigLIP 384 (Redux)", lambda: _vision("clip_vision_siglip_384.json"), _call_all, _pixels(56), GELU),
    FamilyCase("SigLIP 2 naflex", lambda: _vision(
        "clip_vision_siglip2_base_naflex.json", image_size=-1, num_patches=16), _call, _growing(16, 3), GELU),
    FamilyCase("DINOv2 large (518)", lambda: _dino2("dino2_large", image_size=70), _call, _pixels(70)),
    FamilyCase("DINOv2 giant (swiglu, 280: interpolated)", lambda: _dino2(
        "dino2_giant", image_size=70, hidden_size=192), _call,
               _growing(14, 3)),
    FamilyCase("DINOv3", _dino3, lambda m, t: m(t["pixels"]), _growing(16, 3), fresh=True),
    FamilyCase("wav2vec 2 (Wan S2V)", _wav2vec, lambda m, t: m(t["sound"]),
               lambda n, s: {"sound": torch.randn(n, 1, 2000 + 800 * s)}, GELU),
    FamilyCase("Whisper encoder (HuMo)", _whisper, lambda m, t: m(t["mel"]),
               lambda n, s: {"mel": torch.randn(n, 32, 160)}, GELU),
)  # fmt: skip
