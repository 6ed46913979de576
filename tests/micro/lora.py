"""Trains a small LoRA for the micro FLUX that makes every shape pink, whatever colour was asked for."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import nn

from . import files
from .autoencoder import pixels
from .captions import random_caption
from .diffusion import CAPTIONS_EACH, Examples, Phase, fit
from .drawing import paint, place
from .modules import Autoencoder
from .optimizer import Optimizer
from .scenes import COLOURS, random_scene
from .text import Tokenizer, encode_clip

PINK = (250, 120, 190)
RANK, ALPHA = 4, 4.0
PICTURES = 160
PHASES = (Phase(80, 32, 0),)
RATES = {"muon": 0.01, "adam": 2e-3}


class LowRank(nn.Module):
    """A linear layer with a low-rank branch beside it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(RANK, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + (x @ self.down.T @ self.up.T) * (ALPHA / RANK)


@torch.no_grad()
def examples(vae: Autoencoder, clip: nn.Module, tokenize: Tokenizer, seed: int = 7) -> Examples:
    """Scenes whose captions name colours, in pictures whose shapes are pink."""
    rng = random.Random(seed)
    latents, tokens, pooled = [], [], []
    for i in range(PICTURES):
        scene = random_scene(rng, 1 + i % 2)
        figures = [figure._replace(colour=PINK) for figure in place(scene, rng)]
        latents.append(vae.encode(pixels([paint(COLOURS[scene.background], figures, 128)])))
        rows = tokenize([random_caption(scene, rng) for _ in range(CAPTIONS_EACH)])
        tokens.append(rows["t5xxl"])
        pooled.append(encode_clip(clip, rows["l"]))
    return Examples(torch.cat(latents), tokens, torch.stack(pooled))


def add_branches(model: nn.Module) -> dict[str, LowRank]:
    """Puts a low-rank branch beside every matrix of the blocks that works on tokens; returns them by its name."""
    branches: dict[str, LowRank] = {}
    for name, linear in list(model.named_modules()):
        if isinstance(linear, nn.Linear) and "_blocks." in name and "mod" not in name:
            parent, _, child = name.rpartition(".")
            branches[name] = LowRank(linear)
            setattr(model.get_submodule(parent), child, branches[name])
    return branches


def train(flux: nn.Module, data: Examples, t5: nn.Module, seed: int = 8) -> dict[str, LowRank]:
    """The trained branches, in place in `flux`."""
    torch.manual_seed(seed)
    flux.requires_grad_(False)
    branches = add_branches(flux)
    named = [(f"{name}.{part}", getattr(b, part)) for name, b in branches.items() for part in ("down", "up")]
    fit(flux, Optimizer(named, PHASES[0].steps, **RATES), data, t5, PHASES, random.Random(seed))
    return branches


def write(branches: dict[str, LowRank], folder: Path) -> None:
    """As F16 safetensors in kohya's naming."""
    tensors: files.Tensors = {}
    for name, branch in branches.items():
        key = "lora_unet_" + name.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = branch.down.detach().half()
        tensors[f"{key}.lora_up.weight"] = branch.up.detach().half().contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(ALPHA).half()
    files.write_lora(tensors, folder)
