"""Autoencoders and vocoders of sound."""

from __future__ import annotations

from typing import Any

import comfy.ldm.ace.vae.autoencoder_dc
import comfy.ldm.ace.vae.music_vocoder
import comfy.ldm.audio.vae_sa3
import comfy.ldm.lightricks.vocoders.vocoder
import comfy.ldm.minimax.audio_vae
import comfy.ldm.mmaudio.vae.bigvgan
import comfy.ldm.mmaudio.vae.vae
import torch
from comfy.ldm.audio.autoencoder import AudioOobleckVAE

from ..model_cases import Inputs
from .case import GELU, FamilyCase

# Their sines take large arguments: torch with oneDNN and torch without it are 1e-4 apart here.
SINES = 3e-4


def _oobleck() -> torch.nn.Module:
    return AudioOobleckVAE(channels=8, latent_dim=16)


def _stable_audio_3() -> torch.nn.Module:
    model = comfy.ldm.audio.vae_sa3.SA3AudioVAE(
        channels=32, transformer_depths=2, sinusoidal_blocks=0, sliding_window=None, decoder_conv_mapping=True,
        chunk_size=32, chunk_midpoint_shift=True,
    )  # fmt: skip
    for name, buffer in model.named_buffers():
        if name.endswith("inv_freq"):  # a file holds it
            buffer.copy_(10000.0 ** -torch.linspace(0, 1, len(buffer) + 1)[:-1])
    return model


def _dcae() -> torch.nn.Module:
    return comfy.ldm.ace.vae.autoencoder_dc.AutoencoderDC(
        attention_head_dim=16, encoder_block_out_channels=(16, 32, 32, 64), decoder_block_out_channels=(16, 32, 32, 64),
        encoder_layers_per_block=(1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1),
    )  # fmt: skip


def _ace_vocoder() -> torch.nn.Module:
    return comfy.ldm.ace.vae.music_vocoder.ADaMoSHiFiGANV1(
        input_channels=32, depths=[1, 1, 1, 1], dims=[16, 32, 32, 64], num_mels=64, upsample_initial_channel=256
    )


def _mmaudio() -> torch.nn.Module:
    return comfy.ldm.mmaudio.vae.vae.VAE(data_dim=80, embed_dim=20, hidden_dim=32)


def _bigvgan() -> torch.nn.Module:
    config = {
        "resblock": "1", "num_mels": 80, "upsample_rates": [4, 4, 2, 2, 2, 2],
        "upsample_kernel_sizes": [8, 8, 4, 4, 4, 4], "upsample_initial_channel": 128, "resblock_kernel_sizes": [3, 7],
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]], "activation": "snakebeta", "snake_logscale": True,
    }  # fmt: skip
    return comfy.ldm.mmaudio.vae.bigvgan.BigVGANVocoder(config)


def _ltx_vocoder() -> torch.nn.Module:
    return comfy.ldm.lightricks.vocoders.vocoder.Vocoder({"upsample_initial_channel": 64})


def _minimax() -> torch.nn.Module:
    model = comfy.ldm.minimax.audio_vae.MiniMaxH3AudioVAE(encoder_dim=8, latent_dim=128, decoder_dim=256)
    model.latents_mean.copy_(0.1 * torch.randn(32))  # a file holds these
    model.latents_std.copy_(1 + 0.1 * torch.rand(32))
    model.pre_block.attn.zero_k_bias.zero_()
    return model


def _decode(m: Any, t: Inputs) -> Any:
    return m.decode(t["z"])


def _encode(m: Any, t: Inputs) -> Any:
    return m.encode(t["x"])


def _sequence(name: str, channels: int, *lengths: int) -> Any:
    return lambda n, s: {name: torch.randn(n, channels, lengths[s])}


CASES = (
    FamilyCase("Stable Audio Oobleck VAE decode", _oobleck, _decode, _sequence("z", 16, 2, 3), SINES),
    FamilyCase("Stable Audio Oobleck VAE encode", _oobleck, _encode, _sequence("x", 2, 4096, 6144), SINES),
    FamilyCase("Stable Audio 3 VAE decode", _stable_audio_3, _decode, _sequence("z", 256, 4, 6)),
    FamilyCase("Stable Audio 3 VAE encode", _stable_audio_3, _encode, _sequence("x", 2, 16384, 24576)),
    FamilyCase("ACE-Step music DCAE decode", _dcae, lambda m, t: m.decoder(t["z"]),
               lambda n, s: {"z": torch.randn(n, 8, 4, 3 + s)}),
    FamilyCase("ACE-Step music DCAE encode", _dcae, lambda m, t: m.encoder(t["x"]),
               lambda n, s: {"x": torch.randn(n, 2, 32, 16 + 16 * s)}),
    FamilyCase("ACE-Step vocoder decode", _ace_vocoder, _decode, _sequence("z", 32, 4, 6), GELU),
    FamilyCase("MMAudio VAE decode", _mmaudio, _decode, _sequence("z", 20, 6, 9)),
    FamilyCase("MMAudio VAE encode", _mmaudio, lambda m, t: m.encode(t["x"]).mode(), _sequence("x", 80, 12, 18)),
    FamilyCase("MMAudio BigVGAN", _bigvgan, lambda m, t: m(t["x"]), _sequence("x", 80, 3, 4), SINES),
    FamilyCase("LTX-2 audio vocoder", _ltx_vocoder, lambda m, t: m(t["x"]),
               lambda n, s: {"x": torch.randn(n, 2, 64, 5 + s)}),
    FamilyCase("MiniMax H3 audio VAE vocoder", _minimax, _decode, lambda n, s: {"z": torch.randn(n, 32, 2, 2 + s)},
               SINES),
    FamilyCase("MiniMax H3 audio VAE encode", _minimax, _encode, _sequence("x", 2, 1600, 2400), SINES),
)  # fmt: skip
