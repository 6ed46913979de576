"""Trains a small LoRA for the micro FLUX that makes every shape pink, whatever colour was asked for."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import nn

from . import diffusion, files
from .diffusion import Drawn, Said
from .optimizer import Optimizer

PINK = (250, 120, 190)
RANK, ALPHA = 4, 4.0
PICTURES = 160
STEPS = 120


class LowRank(nn.Module):
    """A linear layer with a low-rank branch beside it."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.randn(RANK, linear.in_features) / linear.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(linear.out_features, RANK))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + (x @ self.down.T @ self.up.T) * (ALPHA / RANK)


def random_scenes(seed: int = 7) -> list[Drawn]:
    """Scenes whose captions name colours and whose shapes are pink."""
    scenes = diffusion.random_scenes(PICTURES, seed)
    return [(scene, [figure._replace(colour=PINK) for figure in figures]) for scene, figures in scenes]


def add_branches(model: nn.Module) -> dict[str, LowRank]:
    """Puts a low-rank branch beside every matrix of the blocks that works on tokens; returns them by its name."""
    branches: dict[str, LowRank] = {}
    for name, linear in list(model.named_modules()):
        if isinstance(linear, nn.Linear) and "_blocks." in name and "mod" not in name:
            parent, _, child = name.rpartition(".")
            branches[name] = LowRank(linear)
            setattr(model.get_submodule(parent), child, branches[name])
    return branches


def train(flux: nn.Module, latents: torch.Tensor, said: Said, seed: int = 8) -> dict[str, LowRank]:
    """The trained branches, in place in `flux`."""
    torch.manual_seed(seed)
    flux.requires_grad_(False)
    branches = add_branches(flux)
    named = [(f"{name}.{part}", getattr(b, part)) for name, b in branches.items() for part in ("down", "up")]
    diffusion.fit(flux, Optimizer(named, STEPS, **diffusion.RATES), latents, said, random.Random(seed))
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
