"""Stable Diffusion's U-Nets and those of Stable Cascade and Stable Video Diffusion."""

from __future__ import annotations

from typing import Any

import comfy.ldm.cascade.stage_b
import comfy.ldm.cascade.stage_c
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from ..model_cases import Inputs
from .case import FACTORY, FamilyCase

_SIZES = ((8, 12), (16, 8))


def _unet(**config: Any) -> torch.nn.Module:
    """Three levels with transformers on the first two, as detection finds SD1.5's four with three."""
    config = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1, 1],
        "channel_mult": [1, 2, 4], "num_heads": 4, "use_spatial_transformer": True, "legacy": False, "context_dim": 48,
        "transformer_depth": [1, 1, 0], "transformer_depth_middle": 1, "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    } | config  # fmt: skip
    return UNetModel(**config, **FACTORY)


def _heads_of_channels(**config: Any) -> torch.nn.Module:
    """As from SD2 on: heads of a fixed width, linear projections."""
    return _unet(num_heads=-1, num_head_channels=16, use_linear_in_transformer=True, **config)


def _sdxl(channels: int = 64) -> torch.nn.Module:
    return _heads_of_channels(
        num_classes="sequential", adm_in_channels=channels, transformer_depth=[0, 1, 2], transformer_depth_middle=2,
        transformer_depth_output=[0, 0, 1, 1, 2, 2],
    )  # fmt: skip


def _refiner() -> torch.nn.Module:
    return _heads_of_channels(
        num_classes="sequential", adm_in_channels=64, transformer_depth=[0, 2, 2], transformer_depth_middle=2,
        transformer_depth_output=[0, 0, 2, 2, 2, 2],
    )  # fmt: skip


def _svd() -> torch.nn.Module:
    return _heads_of_channels(
        in_channels=8, num_classes="sequential", adm_in_channels=48, use_temporal_resblock=True,
        use_temporal_attention=True, extra_ff_mix_layer=True, use_spatial_context=True,
        merge_strategy="learned_with_images", merge_factor=0.0, video_kernel_size=[3, 1, 1],
        disable_temporal_crossattention=False,
    )  # fmt: skip


def _call(m: Any, t: Inputs) -> Any:
    control = None
    if "control" in t:
        control = {"input": [], "middle": [t["control"].clone()], "output": [t["control"].clone()]}
    return m(t["x"], t["timestep"], context=t["context"], y=t.get("y"), control=control, transformer_options={})


def _call_svd(m: Any, t: Inputs) -> Any:
    return m(
        t["x"], t["timestep"], context=t["context"], y=t["y"], control=None, transformer_options={},
        num_video_frames=t["x"].shape[0],
    )  # fmt: skip


def _latent(batch: int, size: int, channels: int = 4, adm: int = 0, more: tuple[int, int] = (0, 0)) -> Inputs:
    height, width = (n + extra for n, extra in zip(_SIZES[size], more, strict=True))
    inputs = {
        "x": torch.randn(batch, channels, height, width), "timestep": 999 * torch.rand(batch),
        "context": torch.randn(batch, 7 + 4 * size, 48),
    }  # fmt: skip
    return inputs | ({"y": torch.randn(batch, adm)} if adm else {})


def _with_control(batch: int, size: int) -> Inputs:
    height, width = _SIZES[size]
    return _latent(batch, size) | {"control": torch.randn(batch, 128, height // 4, width // 4)}


def _upscaler(batch: int, size: int) -> Inputs:
    return _latent(batch, size, 7) | {"y": torch.randint(0, 350, (batch,))}


def _frames(batch: int, size: int) -> Inputs:
    return _latent(3 * batch, size, 8, 48)


def _stage_b() -> torch.nn.Module:
    return comfy.ldm.cascade.stage_b.StageB(
        c_cond=64, c_hidden=[32, 64, 64], nhead=[-1, -1, 4], blocks=[[1, 1, 1], [1, 1, 1]],
        block_repeat=[[1, 1, 1], [2, 1, 1]], level_config=["CT", "CT", "CTA"], dropout=[0, 0, 0], c_clip=48, **FACTORY,
    )  # fmt: skip


def _stage_c() -> torch.nn.Module:
    return comfy.ldm.cascade.stage_c.StageC(
        c_cond=64, c_hidden=[64, 64], nhead=[4, 4], blocks=[[1, 2], [2, 1]], c_clip_text=48, c_clip_text_pooled=48,
        c_clip_img=32, **FACTORY,
    )  # fmt: skip


def _stage_b_inputs(batch: int, size: int) -> Inputs:
    return {
        "x": torch.randn(batch, 4, 16, 24 + 8 * size), "r": torch.rand(batch),
        "effnet": torch.randn(batch, 16, 4, 6), "clip": torch.randn(batch, 1, 48),
    }  # fmt: skip


def _stage_c_inputs(batch: int, size: int) -> Inputs:
    return {
        "x": torch.randn(batch, 16, 8, 6 + 4 * size), "r": torch.rand(batch),
        "clip_text": torch.randn(batch, 7, 48), "clip_text_pooled": torch.randn(batch, 1, 48),
        "clip_img": torch.randn(batch, 1, 32),
    }  # fmt: skip


CASES = (
    FamilyCase("SD1.5", _unet, _call, _latent),
    FamilyCase("SD1.5 inpaint (9 channels)", lambda: _unet(in_channels=9), _call,
               lambda n, s: _latent(n, s, 9)),
    FamilyCase("SD1.5 with control residuals", _unet, _call, _with_control),
    FamilyCase("SD2.1", _heads_of_channels, _call, _latent),
    FamilyCase("SDXL", _sdxl, _call, lambda n, s: _latent(n, s, adm=64)),
    FamilyCase("SDXL latent odd size", _sdxl, _call, lambda n, s: _latent(n, s, adm=64, more=(1, 3))),
    FamilyCase("SD2.1 unclip", lambda: _heads_of_channels(num_classes="sequential", adm_in_channels=96), _call,
               lambda n, s: _latent(n, s, adm=96)),
    FamilyCase("SD x4 upscaler", lambda: _heads_of_channels(
        in_channels=7, num_classes=1000, disable_self_attentions=[True, True, False]), _call, _upscaler),
    FamilyCase("SDXL refiner", _refiner, _call, lambda n, s: _latent(n, s, adm=64)),
    FamilyCase("SVD (temporal)", _svd, _call_svd, _frames),
    FamilyCase("Stable Cascade B", _stage_b,
               lambda m, t: m(t["x"], t["r"], t["effnet"], t["clip"], transformer_options={}), _stage_b_inputs),
    FamilyCase("Stable Cascade C", _stage_c, lambda m, t: m(
        t["x"], t["r"], t["clip_text"], t["clip_text_pooled"], t["clip_img"], transformer_options={}),
        _stage_c_inputs),
)  # fmt: skip
