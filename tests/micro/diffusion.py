"""Trains the micro FLUX: rectified flow (arXiv:2209.03003) in the VAE's latents, from what the encoders say."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from .autoencoder import pixels
from .captions import random_caption
from .drawing import Figure, paint, place
from .modules import Autoencoder, flux, training
from .optimizer import Optimizer
from .scenes import COLOURS, Scene, random_scene
from .text import T5_LENGTH, Tokenizer, encode_clip, encode_t5, padded

SIZE = 128  # pixels
PICTURES = 2500
CAPTIONS_EACH = 2
KEPT = 28  # of T5's 256 tokens
STEPS, BATCH = 3000, 24
SHIFT = 2.0  # more of the high sigmas, which decide what is where (arXiv:2403.03206, section 5.3.2)
RATES = {"muon": 0.01, "adam": 2e-3}


@dataclass(frozen=True)
class Said:
    """Encoded captions of scenes, several of each, with padding tokens merged.

    Nearly all of T5's tokens are padding and say nearly the same. Training keeps some of them, and adds to their
    attention scores the logarithm of how many each stands for, which does what as many equal tokens would do.
    """

    context: torch.Tensor  # [scenes, captions, KEPT, CONTEXT]
    weight: torch.Tensor  # [scenes, captions, KEPT], logarithms
    pooled: torch.Tensor  # [scenes, captions, POOLED]


Drawn = tuple[Scene, list[Figure]]  # a scene, and where its shapes are


def random_scenes(count: int, seed: int = 5) -> list[Drawn]:
    """Scenes that are not held out; a third of them have one shape."""
    rng = random.Random(seed)
    scenes = [random_scene(rng, 1 if index % 3 == 0 else 2) for index in range(count)]
    return [(scene, place(scene, rng)) for scene in scenes]


@torch.no_grad()
def encode_captions(t5: nn.Module, clip: nn.Module, tokenize: Tokenizer, scenes: list[Drawn], seed: int = 9) -> Said:
    rng = random.Random(seed)
    said = [_encode_scene(t5, clip, tokenize, scene, rng) for scene, _ in scenes]
    context, weight, pooled = (torch.stack(part) for part in zip(*said, strict=True))
    return Said(context, weight, pooled)


def _encode_scene(
    t5: nn.Module, clip: nn.Module, tokenize: Tokenizer, scene: Scene, rng: random.Random
) -> tuple[torch.Tensor, ...]:
    tokens = tokenize([random_caption(scene, rng) for _ in range(CAPTIONS_EACH)])
    full = encode_t5(t5, padded(tokens["t5xxl"], T5_LENGTH))  # [captions, 256, CONTEXT]
    context, weight = [], []
    for row, output in zip(tokens["t5xxl"], full, strict=True):
        words, padding = len(row), KEPT - len(row)
        kept = [*range(words), *rng.sample(range(words, T5_LENGTH), padding)]
        context.append(output[kept])
        weight.append(torch.tensor([0.0] * words + [math.log((T5_LENGTH - words) / padding)] * padding))
    return torch.stack(context), torch.stack(weight), encode_clip(clip, tokens["l"])


@torch.no_grad()
def encode_pictures(vae: Autoencoder, scenes: list[Drawn]) -> torch.Tensor:
    """Latents [scenes, 16, SIZE / 8, SIZE / 8]."""
    latents = []
    for start in range(0, len(scenes), 16):
        pictures = [paint(COLOURS[s.background], figures, SIZE) for s, figures in scenes[start : start + 16]]
        latents.append(vae.encode(pixels(pictures)))
    return torch.cat(latents).contiguous()


def train(latents: torch.Tensor, said: Said, steps: int = STEPS, seed: int = 6) -> nn.Module:
    """A FLUX that draws what was said."""
    torch.manual_seed(seed)
    model = flux()
    fit(model, Optimizer(model.named_parameters(), steps, **RATES), latents, said, random.Random(seed))
    return model.eval().requires_grad_(False)


def fit(model: nn.Module, optimizer: Optimizer, latents: torch.Tensor, said: Said, rng: random.Random) -> None:
    """Lets the model predict noise minus latents from noisy latents, for all of the optimizer's steps."""
    running = 1.0
    while optimizer.done < optimizer.steps:
        scenes = rng.sample(range(len(latents)), BATCH)
        captions = [rng.randrange(CAPTIONS_EACH) for _ in scenes]
        x = latents[scenes]
        even = (torch.arange(BATCH) + torch.rand(BATCH)) / BATCH  # over 0..1
        sigma = SHIFT * even / (1 + (SHIFT - 1) * even)
        noise = torch.randn_like(x)
        noisy = torch.lerp(x, noise, sigma[:, None, None, None])
        context, pooled = said.context[scenes, captions], said.pooled[scenes, captions]
        mask = _mask(said.weight[scenes, captions], patches=x[0, 0].numel() // 4)
        with training():
            velocity = model(noisy, sigma, context, pooled, attention_mask=mask)
        weight = sigma.square()[:, None, None, None]  # the error of the picture that the velocity leads to
        loss = (weight * (velocity - (noise - x)).square()).mean()
        optimizer.step(loss)
        running = 0.98 * running + 0.02 * loss.item()
        if optimizer.done % 50 == 0:
            print(f"FLUX {optimizer.done}: loss {running:.4f}", flush=True)


def _mask(weight: torch.Tensor, patches: int) -> torch.Tensor:
    """Additive attention mask [batch, 1, queries, keys]: `weight` of text tokens, then 0 for the picture's."""
    keys = functional.pad(weight, (0, patches))
    return keys[:, None, None].expand(-1, 1, keys.shape[1], -1)
