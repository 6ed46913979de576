"""Trains the micro VAE on drawn pictures."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from .drawing import Figure, paint
from .modules import LATENT_CHANNELS, VAE_SCALE, VAE_SHIFT, Autoencoder, autoencoder
from .optimizer import Optimizer
from .scenes import COLOURS, KINDS

KL_WEIGHT = 3e-4
UNIT_VARIANCE_PICTURES = 64
LEARNING_RATES = {"muon": 0.01, "adam": 1e-3}


class Stage(NamedTuple):
    steps: int
    size: int  # pixels
    batch: int
    whole: bool  # with the residual blocks of full resolution, which cost most and matter last


STAGES = (Stage(400, 32, 8, False), Stage(150, 64, 4, False), Stage(250, 64, 4, True), Stage(60, 128, 2, True))


def pixels(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of one size as [batch, 3, height, width] in -1..1."""
    values = torch.from_numpy(np.stack([np.array(picture, np.float32) for picture in pictures]))
    return values.permute(0, 3, 1, 2) / 127.5 - 1  # channels last in memory


def picture(values: torch.Tensor) -> Image.Image:
    """[3, height, width] in -1..1 as a picture."""
    return Image.fromarray(((values.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def random_picture(size: int, rng: random.Random) -> Image.Image:
    """Some shapes of mostly named colours on a background, seen as closely as in a picture of 128 pixels."""

    def colour() -> tuple[int, int, int]:
        if rng.random() < 0.8:
            return rng.choice(tuple(COLOURS.values()))
        return rng.randrange(256), rng.randrange(256), rng.randrange(256)

    figures = [
        Figure(rng.choice(KINDS), colour(), rng.random(), rng.random(), 128 / size * rng.uniform(0.14, 0.3))
        for _ in range(rng.choice((1, 1, 2)))
    ]
    return paint(colour(), figures, size)


def train(stages: Sequence[Stage] = STAGES, seed: int = 0) -> Autoencoder:
    """An autoencoder whose latents have unit variance after ComfyUI's scaling."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = autoencoder()
    optimizer = Optimizer(model.named_parameters(), sum(stage.steps for stage in stages), **LEARNING_RATES)
    for stage in stages:
        with _all_blocks(model) if stage.whole else _without_finest_blocks(model):
            for _ in range(stage.steps):
                x = pixels([random_picture(stage.size, rng) for _ in range(stage.batch)])
                y, divergence = _autoencode(model, x)
                error = (y - x).abs().mean()
                optimizer.step(error + KL_WEIGHT * divergence)
                if optimizer.done % 50 == 0:
                    print(f"VAE {optimizer.done}: error {error:.3f}, divergence {divergence:.2f}", flush=True)
    _unit_variance(model, pixels([random_picture(128, rng) for _ in range(UNIT_VARIANCE_PICTURES)]))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def _unit_variance(model: Autoencoder, pictures: torch.Tensor) -> None:
    """Scales the latents, and what reads them, so that the pictures' have a deviation of 1, as sampling expects."""
    deviation = model.encode(pictures).std()
    model.encoder.conv_out.weight[:LATENT_CHANNELS] /= deviation
    model.encoder.conv_out.bias[:LATENT_CHANNELS] /= deviation
    model.decoder.conv_in.weight *= deviation


def _autoencode(model: Autoencoder, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Reconstructions from noisy latents, and the latents' divergence from a unit Gaussian, in nats per number."""
    moments = model.encoder(x)
    mean = (moments[:, :LATENT_CHANNELS] - VAE_SHIFT) * VAE_SCALE
    log_variance = moments[:, LATENT_CHANNELS:].clamp(-30, 20) + 2 * math.log(VAE_SCALE)
    latents = mean + torch.randn_like(mean) * (log_variance / 2).exp()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return model.decode(latents), divergence


@contextmanager
def _all_blocks(model: Autoencoder) -> Iterator[None]:
    yield


@contextmanager
def _without_finest_blocks(model: Autoencoder) -> Iterator[None]:
    blocks = [*model.encoder.down[0].block, *model.decoder.up[0].block]
    for block in blocks:
        block.forward = _shortcut(block)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _shortcut(block: nn.Module):
    def forward(x: torch.Tensor, *_) -> torch.Tensor:
        return x if block.in_channels == block.out_channels else block.nin_shortcut(x)

    return forward
