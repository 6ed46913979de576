"""Wan 2.1 and 2.2 and what is built of them."""

from __future__ import annotations

from typing import Any

import comfy.ldm.wan.ar_model
import comfy.ldm.wan.model
import comfy.ldm.wan.model_animate
import comfy.ldm.wan.model_wandancer
import torch

from ..model_cases import Inputs
from .case import FACTORY, GELU, FamilyCase

_SMALL = {
    "dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2, "text_len": 16, "text_dim": 48, "freq_dim": 32,
}  # fmt: skip


def _wan(**config: Any) -> torch.nn.Module:
    return comfy.ldm.wan.model.WanModel(**_SMALL, **config, **FACTORY)


def _kind(kind: type[torch.nn.Module], **config: Any) -> torch.nn.Module:
    return kind(**(_SMALL | config), **FACTORY)


def _animate() -> torch.nn.Module:
    """A block in five looks at the face, which comes at 16 pixels instead of 512, so the encoder halves it twice."""
    animate = comfy.ldm.wan.model_animate
    model = _kind(animate.AnimateWanModel, in_dim=36, num_layers=5, motion_encoder_dim=512)
    model.motion_encoder.enc.net_app.convs = torch.nn.ModuleList([
        animate.ConvLayer(3, 32, 1, **FACTORY), animate.ResBlock(32, 64, **FACTORY),
        animate.ResBlock(64, 128, **FACTORY), animate.EqualConv2d(128, 512, 4, padding=0, bias=False, **FACTORY),
    ])  # fmt: skip
    return model


def _call(m: Any, t: Inputs, **more: Any) -> Any:
    named = {name: x for name, x in t.items() if name not in ("x", "timestep", "context")}
    return m(t["x"], t["timestep"], t["context"], transformer_options={}, **named, **more)


def _call_vace(m: Any, t: Inputs) -> Any:
    return _call(m, t, vace_strength=[1.0])


def _video(batch: int, size: int, channels: int = 16, **more: tuple[int, ...]) -> Inputs:
    """more: shapes without the batch."""
    inputs = {
        "x": torch.randn(batch, channels, 2 + size, 6, 8 - 2 * size), "timestep": 1000 * torch.rand(batch),
        "context": torch.randn(batch, 9 + 3 * size, 48),
    }  # fmt: skip
    return inputs | {name: torch.randn(batch, *shape) for name, shape in more.items()}


def _scail2(batch: int, size: int) -> Inputs:
    return _sized(
        batch, size, 20, clip_fea=lambda *_: (7, 1280), reference_latent=lambda _, h, w: (20, 1, h, w),
        pose_latents=lambda t, h, w: (20, t, h // 2 + 1, w // 2),
        sam_latents=lambda t, h, w: (28, t, h // 2 + 1, w // 2),
        ref_mask_latents=lambda t, h, w: (28, t + 1, h, w),
    )  # fmt: skip


def _per_frame(batch: int, size: int) -> Inputs:
    inputs = _video(batch, size, 48)
    return inputs | {"timestep": 1000 * torch.rand(batch, inputs["x"].shape[2])}


def _sized(batch: int, size: int, channels: int, **more: Any) -> Inputs:
    """more: shapes without the batch, as functions of latent frames, height and width."""
    inputs = _video(batch, size, channels)
    shape = inputs["x"].shape[2:]
    return inputs | {name: torch.randn(batch, *make(*shape)) for name, make in more.items()}


CASES = (
    FamilyCase("Wan 2.1 t2v", _wan, _call, _video, GELU),
    FamilyCase("Wan 2.1 i2v", lambda: _wan(model_type="i2v", in_dim=36), _call,
               lambda n, s: _video(n, s, 36, clip_fea=(7, 1280)), GELU),
    FamilyCase("Wan 2.1 flf2v", lambda: _wan(model_type="i2v", in_dim=36, flf_pos_embed_token_number=14), _call,
               lambda n, s: _video(n, s, 36, clip_fea=(14, 1280)), GELU),
    FamilyCase("Wan 2.1 Fun control (ref conv)", lambda: _wan(model_type="i2v", in_dim=48, in_dim_ref_conv=16), _call,
               lambda n, s: _sized(n, s, 48, clip_fea=lambda *_: (7, 1280), reference_latent=lambda _, h, w: (
                   16, h, w)), GELU),
    FamilyCase("Wan Phantom (time_dim_concat)", _wan, _call,
               lambda n, s: _sized(n, s, 16, time_dim_concat=lambda _, h, w: (16, 1, h, w)), GELU),
    FamilyCase("Wan 2.1 VACE", lambda: _kind(comfy.ldm.wan.model.VaceWanModel, vace_layers=1, vace_in_dim=96),
               _call_vace, lambda n, s: _sized(n, s, 16, vace_context=lambda *shape: (1, 96, *shape)), GELU),
    FamilyCase("Wan 2.1 Camera", lambda: _kind(comfy.ldm.wan.model.CameraWanModel, in_dim=32), _call,
               lambda n, s: _sized(n, s, 32, clip_fea=lambda *_: (7, 1280), camera_conditions=lambda t, h, w: (
                   24, t, 8 * h, 8 * w)), GELU),
    FamilyCase("Wan 2.2 14B (36 channels)", lambda: _wan(in_dim=36), _call, lambda n, s: _video(n, s, 36), GELU),
    FamilyCase("Wan 2.2 5B", lambda: _wan(in_dim=48, out_dim=48), _call, lambda n, s: _video(n, s, 48), GELU),
    FamilyCase("Wan 2.2 5B (timestep per frame)", lambda: _wan(in_dim=48, out_dim=48), _call, _per_frame, GELU),
    FamilyCase("Wan 2.1 causal AR (self forcing)", lambda: _kind(comfy.ldm.wan.ar_model.CausalWanModel), _call, _video,
               GELU),
    FamilyCase("Wan 2.1 HuMo", lambda: _kind(comfy.ldm.wan.model.HumoWanModel, audio_token_num=16), _call,
               lambda n, s: _sized(n, s, 16, audio_embed=lambda t, *_: (t, 8, 5, 1280), reference_latent=lambda
                                   _, h, w: (16, 1, h, w)), GELU),
    FamilyCase("Wan 2.1 SCAIL", lambda: _kind(comfy.ldm.wan.model.SCAILWanModel), _call,
               lambda n, s: _sized(n, s, 20, clip_fea=lambda *_: (7, 1280), reference_latent=lambda _, h, w: (
                   20, 1, h, w), pose_latents=lambda t, h, w: (20, t, h // 2 + 1, w // 2)), GELU),
    FamilyCase("Wan 2.1 SCAIL 2", lambda: _kind(comfy.ldm.wan.model.SCAIL2WanModel), _call, _scail2, GELU),
    FamilyCase("Wan 2.2 Animate", _animate, _call,
        lambda n, s: _sized(n, s, 36, clip_fea=lambda *_: (7, 1280), pose_latents=lambda t, h, w: (16, t, h, w),
                            face_pixel_values=lambda t, *_: (3, 4 * t - 3, 16, 16)), GELU),
    FamilyCase("Wan 2.2 S2V", lambda: _kind(
        comfy.ldm.wan.model.WanModel_S2V, audio_dim=32, num_audio_token=2, audio_inject_layers=[0]), _call,
        lambda n, s: _sized(n, s, 16, audio_embed=lambda t, *_: (25, 32, 4 * t), reference_latent=lambda _, h, w: (
            16, 1, h, w), control_video=lambda t, h, w: (16, t, h, w)), GELU),
    FamilyCase("Wan 2.2 WanDancer", lambda: _kind(
        comfy.ldm.wan.model_wandancer.WanDancerModel, in_dim=36, audio_inject_layers=[0], music_dim=32,
        music_feature_dim=12, music_latent_dim=32), _call,
        lambda n, s: _video(n, s, 36, clip_fea=(7, 1280), audio_embed=(8 + 4 * s, 12)) | {
            "x": torch.randn(n, 36, 2 + s, 8, 8 + 4 * s)}, GELU),
)  # fmt: skip
