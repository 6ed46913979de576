"""Muon for matrices and convolutions, AdamW for the rest: fewer steps than AdamW alone at this size."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # https://kellerjordan.github.io/posts/muon


class Optimizer:
    """Steps with gradients clipped and learning rates that warm up and fall to zero along a cosine."""

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], steps: int, muon: float, adam: float, warm_up: int = 20
    ) -> None:
        parameters = dict(named)
        self.matrices = {n: p for n, p in parameters.items() if _is_matrix(n, p)}
        self.momenta = {name: torch.zeros_like(p) for name, p in self.matrices.items()}
        others = [p for name, p in parameters.items() if name not in self.matrices]
        self.adamw = torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0)
        self.parameters = list(parameters.values())
        self.steps, self.warm_up, self.muon, self.adam, self.done = steps, warm_up, muon, adam, 0

    def step(self, loss: torch.Tensor) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        factor = min(1.0, (self.done + 1) / self.warm_up) * (0.5 + 0.5 * math.cos(math.pi * self.done / self.steps))
        self.adamw.param_groups[0]["lr"] = self.adam * factor
        self.adamw.step()
        self._muon_step(self.muon * factor)
        self.done += 1

    @torch.no_grad()
    def _muon_step(self, rate: float) -> None:
        for name, parameter in self.matrices.items():
            if parameter.grad is None:
                continue
            momentum = self.momenta[name].mul_(0.95).add_(parameter.grad)
            update = parameter.grad.add(momentum, alpha=0.95).reshape(parameter.shape[0], -1)
            stretch = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
            parameter.add_(_orthogonal(update).reshape(parameter.shape), alpha=-rate * stretch)


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    narrow = parameter.ndim < 2 or min(parameter.shape[0], parameter[0].numel()) < 16
    return not (narrow or "embedding" in name or "shared" in name or "attention_bias" in name)


def _orthogonal(update: torch.Tensor) -> torch.Tensor:
    """The nearest matrix with orthonormal rows or columns, roughly."""
    tall = update.shape[0] > update.shape[1]
    x = update.T if tall else update
    x = x / (x.norm() + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x
