"""Draws pictures in torch from the micro models' files, as ComfyUI's KSampler does with euler and simple at cfg 1."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from . import files
from .autoencoder import picture
from .diffusion import SIZE
from .modules import LATENT_CHANNELS, Autoencoder
from .text import T5_LENGTH, Tokenizer, encode_clip, encode_t5, padded

STEPS = 4


def encode(t5: nn.Module, clip: nn.Module, captions: list[str], length: int = T5_LENGTH) -> tuple[torch.Tensor, ...]:
    """Conditioning for FLUX: [batch, length, CONTEXT] of T5 and [batch, POOLED] of CLIP."""
    tokens = Tokenizer()(captions)
    return encode_t5(t5, padded(tokens["t5xxl"], length)), encode_clip(clip, tokens["l"])


def simple_sigmas(steps: int) -> list[float]:
    """comfy.samplers.simple_scheduler for FLUX.1-schnell (shift 1, 1000 sigmas)."""
    return [1 - int(step * 1000 / steps) / 1000 for step in range(steps)] + [0.0]


@torch.no_grad()
def sample(
    flux: nn.Module, context: torch.Tensor, pooled: torch.Tensor, seeds: list[int],
    size: int = SIZE, steps: int = STEPS,
) -> torch.Tensor:  # fmt: skip
    """Latents [batch, 16, size / 8, size / 8] from one seed each; the noise is ComfyUI's for that seed."""
    shape = (1, LATENT_CHANNELS, size // 8, size // 8)
    x = torch.cat([torch.randn(shape, generator=torch.manual_seed(seed)) for seed in seeds])
    sigmas = simple_sigmas(steps)
    for now, then in pairwise(sigmas):
        x = x + (then - now) * flux(x, torch.full((len(x),), now), context, pooled)
    return x


@torch.no_grad()
def decode(vae: Autoencoder, latents: torch.Tensor) -> list[Image.Image]:
    return [picture(vae.decode(each[None])[0]) for each in latents]


def read_encoders(folder: Path = files.MODELS) -> tuple[nn.Module, nn.Module]:
    return files.read_t5(folder / files.T5_GGUF), files.read_clip(folder / files.CLIP_FP8)
