"""Autoencoders of pictures, in both directions, and of shapes."""

from __future__ import annotations

from typing import Any

import comfy.ldm.cascade.stage_a
import comfy.ldm.cascade.stage_c_coder
import comfy.ldm.hunyuan3d.vae
import comfy.ldm.mage_flow.vae
import comfy.taesd.taesd
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL, AutoencodingEngine

from ..model_cases import Inputs
from .case import GELU, FamilyCase, narrow

_REGULARIZER = {"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"}


def _kl(channels: int, batch_norm: bool = False) -> torch.nn.Module:
    config = {
        "double_z": True, "z_channels": channels, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    if batch_norm:
        config["batch_norm_latent"] = True
    return AutoencoderKL(ddconfig=config, embed_dim=channels)


def _flux() -> torch.nn.Module:
    config = {
        "double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    model = "comfy.ldm.modules.diffusionmodules.model"
    return AutoencodingEngine(
        regularizer_config=_REGULARIZER, encoder_config={"target": f"{model}.Encoder", "params": config},
        decoder_config={"target": f"{model}.Decoder", "params": config},
    )  # fmt: skip


def _hunyuan() -> torch.nn.Module:
    config = {
        "block_out_channels": [32, 32, 64, 64, 64, 64], "in_channels": 3, "out_channels": 3, "num_res_blocks": 1,
        "ffactor_spatial": 32, "downsample_match_channel": True, "upsample_match_channel": True, "z_channels": 16,
    }  # fmt: skip
    model = "comfy.ldm.hunyuan_video.vae"
    return AutoencodingEngine(
        regularizer_config=_REGULARIZER, encoder_config={"target": f"{model}.Encoder", "params": config},
        decoder_config={"target": f"{model}.Decoder", "params": config},
    )  # fmt: skip


def _tae(channels: int) -> torch.nn.Module:
    return comfy.taesd.taesd.TAESD(latent_channels=channels)


def _mage() -> torch.nn.Module:
    vae = comfy.ldm.mage_flow.vae
    encoder = {"hidden_size": 64, "num_blocks": 2, "head_size": 64, "num_head_blocks": 1}
    decoder = {"hidden_size": 64, "hidden_size_x": 16, "num_blocks": 3, "num_cond_blocks": 2}
    with narrow(vae, DConvEncoder=encoder, DConvDenoiser=decoder):
        return vae.MageVAE()


def _stage_a() -> torch.nn.Module:
    return comfy.ldm.cascade.stage_a.StageA(bottleneck_blocks=2, c_hidden=64, codebook_size=32)


def _stage_c() -> torch.nn.Module:
    """The encoder is torchvision's EfficientNet, which has one width."""
    coder = comfy.ldm.cascade.stage_c_coder
    with narrow(coder, Previewer={"c_hidden": 64}):
        return coder.StageC_coder()


def _shape() -> torch.nn.Module:
    return comfy.ldm.hunyuan3d.vae.ShapeVAE(
        num_latents=32, width=64, heads=2, num_decoder_layers=2, num_encoder_layers=1, pc_size=64
    )


def _decode(m: Any, t: Inputs) -> Any:
    return m.decode(t["z"])


def _encode(m: Any, t: Inputs) -> Any:
    return m.encode(t["x"])


def _latent(channels: int, height: int = 4, width: int = 6) -> Any:
    return lambda n, s: {"z": torch.randn(n, channels, height + 2 * s, width)}


def _pixels(step: int = 32) -> Any:
    return lambda n, s: {"x": torch.rand(n, 3, step * (1 + s), step * 2) * 2 - 1}


CASES = (
    FamilyCase("SD / SDXL VAE decode", lambda: _kl(4), _decode, _latent(4)),
    FamilyCase("SD / SDXL VAE encode", lambda: _kl(4), _encode, _pixels()),
    FamilyCase("FLUX VAE decode", _flux, _decode, _latent(16)),
    FamilyCase("FLUX VAE encode", _flux, _encode, _pixels()),
    FamilyCase("FLUX.2 VAE (batch norm) decode", lambda: _kl(8, True), _decode, _latent(32, 2, 3)),
    FamilyCase("FLUX.2 VAE (batch norm) encode", lambda: _kl(8, True), _encode, _pixels()),
    FamilyCase("TAESD decode", lambda: _tae(4), _decode, _latent(4)),
    FamilyCase("TAESD encode", lambda: _tae(4), _encode, _pixels()),
    FamilyCase("TAEF1 (16 channels) decode", lambda: _tae(16), _decode, _latent(16)),
    FamilyCase("TAEF1 (16 channels) encode", lambda: _tae(16), _encode, _pixels()),
    FamilyCase("TAEF2 (Flux.2) decode", lambda: _tae(128), _decode, _latent(128, 2, 3)),
    FamilyCase("TAEF2 (Flux.2) encode", lambda: _tae(128), _encode, _pixels()),
    FamilyCase("HunyuanImage 2.1 VAE decode", _hunyuan, _decode, _latent(16, 2, 3)),
    FamilyCase("HunyuanImage 2.1 VAE encode", _hunyuan, _encode, _pixels()),
    FamilyCase("Mage VAE decode", _mage, _decode, _latent(128, 2, 3), GELU),
    FamilyCase("Mage VAE encode", _mage, _encode, _pixels(), GELU),
    FamilyCase("Cascade stage A decode", _stage_a, _decode, _latent(4), GELU),
    FamilyCase("Cascade stage A encode", _stage_a, _encode, _pixels(), GELU),
    FamilyCase("Cascade stage C coder decode", _stage_c, _decode, _latent(16), GELU),
    FamilyCase("Cascade stage C coder encode", _stage_c, _encode, _pixels(64), GELU),
    FamilyCase("Hunyuan3D shape VAE decode", _shape,
               lambda m, t: m.transformer(m.post_kl(t["z"].movedim(-2, -1))),
               lambda n, s: {"z": torch.randn(n, 64, 20 + 4 * s)}),
    FamilyCase("Hunyuan3D shape VAE query", _shape, lambda m, t: m.geo_decoder(**t),
               lambda n, s: {"queries": torch.randn(n, 40 + s, 3), "latents": torch.randn(n, 20, 64)}),
)  # fmt: skip
