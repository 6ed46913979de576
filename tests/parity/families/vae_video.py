"""Autoencoders of video, in both directions, and latent upsamplers."""

from __future__ import annotations

from typing import Any

import comfy.ldm.cogvideo.vae
import comfy.ldm.cosmos.vae
import comfy.ldm.genmo.vae.model
import comfy.ldm.hunyuan_video.upsampler
import comfy.ldm.lightricks.latent_upsampler
import comfy.ldm.lightricks.vae.causal_video_autoencoder
import comfy.ldm.minimax.vae
import comfy.ldm.seedvr.vae
import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.ops
import comfy.taesd.taehv
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL, AutoencodingEngine

from ..model_cases import Inputs
from .case import GELU, FamilyCase, narrow

_KL = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 2, 4], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def _engine(encoder: str, decoder: str, config: dict[str, Any], more: dict[str, Any], kind: str) -> torch.nn.Module:
    return AutoencodingEngine(
        regularizer_config={"target": f"comfy.ldm.models.autoencoder.{kind}"},
        encoder_config={"target": encoder, "params": config},
        decoder_config={"target": decoder, "params": config | more},
    )  # fmt: skip


def _svd() -> torch.nn.Module:
    return _engine(
        "comfy.ldm.modules.diffusionmodules.model.Encoder", "comfy.ldm.modules.temporal_ae.VideoDecoder", _KL,
        {"video_kernel_size": [3, 1, 1], "alpha": 0.0}, "DiagonalGaussianRegularizer",
    )  # fmt: skip


def _refiner(refiner: bool) -> torch.nn.Module:
    """HunyuanImage's refiner and HunyuanVideo 1.5 have one class."""
    config = {
        "block_out_channels": [32, 32, 32, 64, 64], "in_channels": 3, "out_channels": 3, "num_res_blocks": 1,
        "ffactor_spatial": 16, "ffactor_temporal": 4, "downsample_match_channel": True, "upsample_match_channel": True,
        "z_channels": 32,
    }  # fmt: skip
    if refiner:
        config["refiner_vae"] = False
    model = "comfy.ldm.hunyuan_video.vae_refiner"
    kind = "DiagonalGaussianRegularizer" if refiner else "EmptyRegularizer"
    return _engine(f"{model}.Encoder", f"{model}.Decoder", config, {}, kind)


def _hunyuan() -> torch.nn.Module:
    config = _KL | {"z_channels": 16, "conv3d": True, "time_compress": 4}
    return AutoencoderKL(ddconfig=config, embed_dim=16)


def _ltx(timestep: bool) -> torch.nn.Module:
    blocks = [["res_x", 1], ["compress_all", 1], ["res_x_y", 1], ["compress_all", 1], ["res_x", 1]]
    config = {
        "dims": 3, "in_channels": 3, "out_channels": 3, "latent_channels": 16, "norm_layer": "pixel_norm",
        "patch_size": 4, "latent_log_var": "uniform", "use_quant_conv": False, "causal_decoder": False,
        "encoder_base_channels": 16, "decoder_base_channels": 16,
    }  # fmt: skip
    if timestep:
        config |= {
            "timestep_conditioning": True, "encoder_blocks": blocks, "decoder_blocks": [
                ["res_x", {"num_layers": 1, "inject_noise": True}],
                ["compress_all", {"residual": True, "multiplier": 2}],
                ["compress_all", {"residual": True, "multiplier": 2}],
                ["res_x", {"num_layers": 1, "inject_noise": False}],
            ],
        }  # fmt: skip
    else:
        config["blocks"] = blocks
    model = comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE(config=config)
    for name, buffer in model.per_channel_statistics.named_buffers():  # a file holds them
        model.per_channel_statistics._buffers[name] = torch.rand(16) + 0.5 if "std" in name else torch.rand(16)
        assert buffer.numel() in (16, 128)
    return model


def _wan(dim: int = 16) -> torch.nn.Module:
    return comfy.ldm.wan.vae.WanVAE(
        dim=dim, z_dim=16, num_res_blocks=1, temperal_downsample=[False, True, True], image_channels=3,
        conv_out_channels=3,
    )  # fmt: skip


def _wan22() -> torch.nn.Module:
    return comfy.ldm.wan.vae2_2.WanVAE(
        dim=16, dec_dim=16, z_dim=48, num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def _mochi() -> torch.nn.Module:
    vae = comfy.ldm.genmo.vae.model
    model = vae.VideoVAE.__new__(vae.VideoVAE)
    torch.nn.Module.__init__(model)
    model.encoder = vae.Encoder(
        in_channels=15, base_channels=32, channel_multipliers=[1, 2, 3, 4], num_res_blocks=[1, 1, 1, 1, 1],
        latent_dim=12, temporal_reductions=[1, 2, 3], spatial_reductions=[2, 2, 2],
        prune_bottlenecks=[False] * 5, has_attentions=[False, True, True, True, True], affine=True, bias=True,
        input_is_conv_1x1=True, padding_mode="replicate",
    )  # fmt: skip
    model.decoder = vae.Decoder(
        out_channels=3, base_channels=32, channel_multipliers=[1, 2, 3, 4], temporal_expansions=[1, 2, 3],
        spatial_expansions=[2, 2, 2], num_res_blocks=[1, 1, 1, 1, 1], latent_dim=12, has_attention=[False] * 5,
        padding_mode="replicate", output_norm=False, nonlinearity="silu", output_nonlinearity="silu", causal=True,
    )  # fmt: skip
    return model


def _cogvideo() -> torch.nn.Module:
    return comfy.ldm.cogvideo.vae.AutoencoderKLCogVideoX(block_out_channels=(32, 32, 64, 64), layers_per_block=1)


def _cosmos() -> torch.nn.Module:
    return comfy.ldm.cosmos.vae.CausalContinuousVideoTokenizer(
        z_channels=16, latent_channels=16, z_factor=1, resolution=1024, in_channels=3, out_channels=3, channels=16,
        channels_mult=[2, 4, 4], num_res_blocks=1, attn_resolutions=[32], dropout=0.0, patch_size=4, num_groups=1,
        temporal_compression=8, spacial_compression=8,
    )  # fmt: skip


def _minimax() -> torch.nn.Module:
    vae = comfy.ldm.minimax.vae
    with narrow(vae, ViT3DDecoder={"num_layers": 2, "heads": 1}):
        return vae.MiniMaxH3VideoVAE(ch=32, num_res_blocks=1)


_SEEDVR = {
    "block_out_channels": (32, 32, 64, 64), "layers_per_block": 1, "inflation_mode": "pad",
    "time_receptive_field": "full",
}  # fmt: skip


def _seedvr_encoder() -> torch.nn.Module:
    return comfy.ldm.seedvr.vae.Encoder3D(
        in_channels=3, out_channels=16, down_block_types=("DownEncoderBlock3D",) * 4, temporal_down_num=2, **_SEEDVR
    )


def _seedvr_decoder() -> torch.nn.Module:
    return comfy.ldm.seedvr.vae.Decoder3D(
        in_channels=16, out_channels=3, up_block_types=("UpDecoderBlock3D",) * 4, temporal_up_num=2, **_SEEDVR
    )


def _taehv(channels: int) -> torch.nn.Module:
    return comfy.taesd.taehv.TAEHV(latent_channels=channels)


def _ltx_upsampler() -> torch.nn.Module:
    return comfy.ldm.lightricks.latent_upsampler.LatentUpsampler(
        comfy.ops.disable_weight_init, in_channels=32, mid_channels=64, num_blocks_per_stage=1
    )


def _hunyuan_upsampler() -> torch.nn.Module:
    return comfy.ldm.hunyuan_video.upsampler.SRModel3DV2(32, 32, hidden_channels=64, num_blocks=1)


def _decode(m: Any, t: Inputs) -> Any:
    return m.decode(t["z"])


def _encode(m: Any, t: Inputs) -> Any:
    return m.encode(t["x"])


def _latent(channels: int, frames: int = 2, height: int = 2, width: int = 3) -> Any:
    return lambda n, s: {"z": torch.randn(n, channels, frames, height + s, width)}


def _one(inputs: Any) -> Any:
    """Without a batch, where ComfyUI's own code has none."""
    return lambda n, s: inputs(1, s)


def _frames(frames: int, step: int = 16) -> Any:
    return lambda n, s: {"x": torch.rand(n, 3, frames, step * (1 + s), step * 2) * 2 - 1}


CASES = (
    FamilyCase("SVD VAE (temporal decoder) decode", _svd, _decode,
               lambda n, s: {"z": torch.randn(n + 2, 4, 4 + 2 * s, 6)}),
    FamilyCase("HunyuanImage refiner VAE decode", lambda: _refiner(True), _decode, _latent(32)),
    FamilyCase("HunyuanImage refiner VAE encode", lambda: _refiner(True), _encode, _frames(4)),
    FamilyCase("HunyuanVideo VAE (causal 3D) decode", _hunyuan, _decode, _latent(16)),
    FamilyCase("HunyuanVideo VAE (causal 3D) encode", _hunyuan, _encode, _frames(5)),
    FamilyCase("HunyuanVideo 1.5 VAE decode", lambda: _refiner(False), _decode, _latent(32)),
    FamilyCase("HunyuanVideo 1.5 VAE encode", lambda: _refiner(False), _encode, _frames(5)),
    FamilyCase("HunyuanVideo 1.5 latent upsampler", _hunyuan_upsampler, lambda m, t: m(t["z"]), _latent(32)),
    FamilyCase("LTX-Video VAE 0.9 decode", lambda: _ltx(False), _decode, _latent(16)),
    FamilyCase("LTX-Video VAE 0.9 encode", lambda: _ltx(False), _encode, _frames(9)),
    FamilyCase("LTX-Video VAE 0.9.5 (timestep, noise) decode", lambda: _ltx(True), _decode, _one(_latent(16))),
    FamilyCase("LTX-Video VAE 0.9.5 (timestep, noise) encode", lambda: _ltx(True), _encode, _frames(9)),
    FamilyCase("LTX latent upsampler", _ltx_upsampler, lambda m, t: m(t["z"]), _latent(32)),
    FamilyCase("Wan 2.1 VAE (3 latent frames) decode", _wan, _decode, _latent(16, 3)),
    FamilyCase("Wan 2.1 VAE (3 latent frames) encode", _wan, _encode, _frames(9)),
    FamilyCase("Qwen-Image VAE (1 frame) decode", _wan, _decode, _latent(16, 1)),
    FamilyCase("Qwen-Image VAE (1 frame) encode", _wan, _encode, _frames(1)),
    FamilyCase("Wan 2.2 VAE (3 latent frames) decode", _wan22, _decode, _latent(48, 3)),
    FamilyCase("Wan 2.2 VAE (3 latent frames) encode", _wan22, _encode, _frames(9)),
    FamilyCase("Mochi VAE decode", _mochi, _decode, _latent(12)),
    FamilyCase("Mochi VAE encode", _mochi, _encode, _frames(7)),
    FamilyCase("CogVideoX VAE decode", _cogvideo, _decode, _latent(16)),
    FamilyCase("CogVideoX VAE encode", _cogvideo, _encode, _frames(5)),
    FamilyCase("Cosmos VAE decode", _cosmos, _decode, _latent(16, height=4, width=4)),
    FamilyCase("Cosmos VAE encode", _cosmos, _encode, _frames(9, 32)),
    FamilyCase("MiniMax H3 video VAE decode", _minimax, _decode, _latent(24), GELU),
    FamilyCase("MiniMax H3 video VAE encode", _minimax, _encode, _frames(5, 32)),
    FamilyCase("SeedVR2 VAE decoder", _seedvr_decoder, lambda m, t: m(t["z"]), _latent(16)),
    FamilyCase("SeedVR2 VAE encoder", _seedvr_encoder, lambda m, t: m(t["x"]), _frames(5)),
    FamilyCase("TAEHV (HunyuanVideo) decode", lambda: _taehv(16), _decode, _latent(16)),
    FamilyCase("TAEHV (HunyuanVideo) encode", lambda: _taehv(16), _encode, _frames(4)),
    FamilyCase("TAEW 2.2 (Wan 2.2) decode", lambda: _taehv(48), _decode, _latent(48)),
    FamilyCase("TAEW 2.2 (Wan 2.2) encode", lambda: _taehv(48), _encode, _frames(4, 32)),
)  # fmt: skip
