"""FLUX and what is built of its blocks: FLUX.2, Chroma, Ovis, LongCat."""

from __future__ import annotations

from typing import Any

import comfy.ldm.chroma.model
import comfy.ldm.chroma_radiance.model
import comfy.ldm.flux.model
import torch

from ..model_cases import Inputs
from .case import FACTORY, GELU, FamilyCase


def _flux(**config: Any) -> torch.nn.Module:
    config = {
        "in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": 64, "hidden_size": 128,
        "mlp_ratio": 4.0, "num_heads": 1, "depth": 1, "depth_single_blocks": 2, "axes_dim": [16, 56, 56],
        "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
    } | config  # fmt: skip
    return comfy.ldm.flux.model.Flux(**config, **FACTORY)


def _flux2() -> torch.nn.Module:
    return _flux(
        in_channels=128, out_channels=128, vec_in_dim=None, mlp_ratio=3.0, num_heads=1, axes_dim=[32, 32, 32, 32],
        theta=2000, patch_size=1, qkv_bias=False, guidance_embed=True, txt_ids_dims=[3], global_modulation=True,
        mlp_silu_act=True, ops_bias=False, default_ref_method="index", ref_index_scale=10.0,
    )  # fmt: skip


_CHROMA = {
    "in_channels": 64, "out_channels": 64, "context_in_dim": 64, "hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 1,
    "depth": 1, "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True,
    "in_dim": 64, "out_dim": 128, "hidden_dim": 96, "n_layers": 2, "txt_ids_dims": [], "vec_in_dim": None,
}  # fmt: skip


def _radiance(head: str) -> torch.nn.Module:
    config = _CHROMA | {
        "in_channels": 3, "out_channels": 3, "patch_size": 8, "nerf_hidden_size": 16, "nerf_mlp_ratio": 2,
        "nerf_depth": 2, "nerf_max_freqs": 4, "nerf_tile_size": 512, "nerf_final_head_type": head,
        "nerf_embedder_dtype": torch.float32, "use_x0": head == "conv", "use_sequential_txt_ids": False,
    }  # fmt: skip
    return comfy.ldm.chroma_radiance.model.ChromaRadiance(**config, **FACTORY)


def _call(m: Any, t: Inputs, **options: Any) -> Any:
    references = {"ref_latents": [t["reference"]]} if "reference" in t else {}
    return m(
        t["x"], t["timestep"], t["context"], t.get("y"), guidance=t.get("guidance"), control=None,
        transformer_options=options, **references,
    )  # fmt: skip


def _call_chroma(m: Any, t: Inputs) -> Any:
    return m(t["x"], t["timestep"], t["context"], t["guidance"], control=None, transformer_options={})


def _call_longcat(m: Any, t: Inputs) -> Any:
    tokens = float(t["context"].shape[1])
    return _call(m, t, rope_options={"shift_t": 1.0, "shift_y": tokens, "shift_x": tokens})


def _latent(
    batch: int, size: int, channels: int = 16, y: bool = True, guidance: bool = False, more: int = 0,
    reference: bool = False,
) -> Inputs:  # fmt: skip
    inputs = {
        "x": torch.randn(batch, channels, 8 + 4 * size + more, 12 + more), "timestep": torch.rand(batch),
        "context": torch.randn(batch, 9 + 8 * size, 64),
    }  # fmt: skip
    if y:
        inputs["y"] = torch.randn(batch, 32)
    if guidance:
        inputs["guidance"] = torch.full((batch,), 3.5)
    if reference:
        inputs["reference"] = torch.randn(batch, channels, 6, 8 + 2 * size)
    return inputs


def _pixels(batch: int, size: int) -> Inputs:
    return _latent(batch, size, y=False, guidance=True) | {"x": torch.randn(batch, 3, 16 + 8 * size, 16)}


CASES = (
    FamilyCase("Flux schnell", _flux, _call, _latent, GELU),
    FamilyCase("Flux dev", lambda: _flux(guidance_embed=True), _call, lambda n, s: _latent(n, s, guidance=True), GELU),
    FamilyCase("Flux Fill (384 channels)", lambda: _flux(in_channels=96, guidance_embed=True), _call,
               lambda n, s: _latent(n, s, 96, guidance=True), GELU),
    FamilyCase("Flux Kontext (reference latent)", lambda: _flux(guidance_embed=True), _call,
               lambda n, s: _latent(n, s, guidance=True, reference=True), GELU),
    FamilyCase("Flux odd size", _flux, _call, lambda n, s: _latent(n, s, more=1), GELU),
    FamilyCase("Flux.2", _flux2, _call, lambda n, s: _latent(n, s, 128, y=False, guidance=True)),
    FamilyCase("Flux.2 (reference latent)", _flux2, _call,
               lambda n, s: _latent(n, s, 128, y=False, guidance=True, reference=True)),
    FamilyCase("Ovis image (yak mlp, txt norm)", lambda: _flux(
        vec_in_dim=None, yak_mlp=True, txt_norm=True, txt_ids_dims=[1, 2]), _call,
        lambda n, s: _latent(n, s, y=False)),
    FamilyCase("LongCat image", lambda: _flux(vec_in_dim=None, txt_ids_dims=[1, 2]), _call_longcat,
               lambda n, s: _latent(n, s, y=False), GELU),
    FamilyCase("Chroma", lambda: comfy.ldm.chroma.model.Chroma(**_CHROMA, **FACTORY), _call_chroma,
               lambda n, s: _latent(n, s, y=False, guidance=True), GELU),
    FamilyCase("Chroma Radiance (linear head)", lambda: _radiance("linear"), _call_chroma, _pixels, 2 * GELU),
    FamilyCase("Chroma Radiance (conv head)", lambda: _radiance("conv"), _call_chroma, _pixels, GELU),
)  # fmt: skip
