"""Trains the micro FLUX and T5 together: rectified flow (arXiv:2209.03003) in the VAE's latents, from captions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .autoencoder import pixels
from .captions import random_caption
from .drawing import draw
from .modules import Autoencoder, flux, training
from .optimizer import Optimizer
from .scenes import random_scene
from .text import T5_LENGTH, Tokenizer, encode_clip, encode_t5, padded

PICTURES = 4000
CAPTIONS_EACH = 3
RATES = {"muon": 0.01, "adam": 2e-3}


@dataclass(frozen=True)
class Examples:
    """Pictures of one size: latents [pictures, 16, size / 8, size / 8]; several captions' T5 tokens and CLIP
    vectors [POOLED] each."""

    latents: torch.Tensor
    tokens: list[list[list[int]]]
    pooled: torch.Tensor  # [pictures, captions, POOLED]


@dataclass(frozen=True)
class Phase:
    steps: int
    batch: int
    t5_length: int  # tokens with padding; 0 for the longest caption and up to 16 more


PHASES = (Phase(1023, 48, 0), Phase(77, 16, T5_LENGTH))


@torch.no_grad()
def examples(
    vae: Autoencoder, clip: nn.Module, tokenize: Tokenizer, count: int = PICTURES, size: int = 128, seed: int = 5
) -> Examples:
    """Drawn scenes that are not held out, a third of them with one shape."""
    rng = random.Random(seed)
    latents, tokens, pooled = [], [], []
    for start in range(0, count, 16):
        scenes = [random_scene(rng, 1 if i % 3 == 0 else 2) for i in range(start, min(start + 16, count))]
        latents.append(vae.encode(pixels([draw(scene, size, rng) for scene in scenes])))
        for scene in scenes:
            rows = tokenize([random_caption(scene, rng) for _ in range(CAPTIONS_EACH)])
            tokens.append(rows["t5xxl"])
            pooled.append(encode_clip(clip, rows["l"]))
    return Examples(torch.cat(latents).contiguous(), tokens, torch.stack(pooled))


def train(data: Examples, t5: nn.Module, phases: Sequence[Phase] = PHASES, seed: int = 6) -> nn.Module:
    """A FLUX that draws the examples' captions; t5 learns what it needs."""
    torch.manual_seed(seed)
    model = flux()
    named = [(f"{part}.{name}", p) for part, m in (("flux", model), ("t5", t5)) for name, p in m.named_parameters()]
    optimizer = Optimizer(named, sum(phase.steps for phase in phases), **RATES)
    t5.requires_grad_(True)
    fit(model, optimizer, data, t5, phases, random.Random(seed))
    t5.requires_grad_(False)
    return model.eval().requires_grad_(False)


def fit(
    model: nn.Module, optimizer: Optimizer, data: Examples, t5: nn.Module, phases: Sequence[Phase], rng: random.Random
) -> None:
    """Lets the model predict noise minus latents from noisy latents, for all of the phases' steps."""
    running = 1.0
    for phase in phases:
        for _ in range(phase.steps):
            chosen = rng.sample(range(len(data.latents)), phase.batch)
            captions = [rng.randrange(CAPTIONS_EACH) for _ in chosen]
            rows = [data.tokens[i][j] for i, j in zip(chosen, captions, strict=True)]
            length = phase.t5_length or max(map(len, rows)) + rng.randrange(16)
            with training():
                context = encode_t5(t5, padded(rows, length))
            latents, pooled = data.latents[chosen], data.pooled[chosen, captions]
            sigma = (torch.arange(phase.batch) + torch.rand(phase.batch)) / phase.batch  # evenly spread over 0..1
            noise = torch.randn_like(latents)
            noisy = torch.lerp(latents, noise, sigma[:, None, None, None])
            with training():
                velocity = model(noisy, sigma, context, pooled)
            loss = (velocity - (noise - latents)).square().mean()
            optimizer.step(loss)
            running = 0.98 * running + 0.02 * loss.item()
            if optimizer.done % 50 == 0:
                print(f"FLUX {optimizer.done}: loss {running:.4f}", flush=True)
