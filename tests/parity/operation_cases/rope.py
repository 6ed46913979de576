"""Rotary position embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .case import XY, Case, Inputs, X, heads


def _rope_table(tokens: int, channels: int, first: float = 0.0) -> Tensor:
    angle = (torch.arange(tokens)[:, None] + first) * torch.linspace(1, 0.01, channels // 2)
    return _rotations(angle)


def _rotations(angle: Tensor) -> Tensor:
    rotation = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), -1)
    return rotation.unflatten(-1, (2, 2))[None, None]


def _rope(m: Any, t: Inputs) -> Tensor:
    return torch.ops.comfy_kitchen.apply_rope1(heads(t["x"]), _rope_table(6, 8).to(t["x"].device))


def _rope_axes(m: Any, t: Inputs) -> Tensor:
    """As FLUX.1: pairs that never rotate, and pictures' rows and columns."""
    angle = torch.zeros(6, 4)
    angle[:, 1:3] = (torch.arange(6) // 3)[:, None] * torch.tensor([1.0, 0.03])
    angle[:, 3] = torch.arange(6) % 3 * 0.7
    return torch.ops.comfy_kitchen.apply_rope1(heads(t["x"]), _rotations(angle).to(t["x"].device))


def _rope_normed(m: Any, t: Inputs) -> Tensor:
    """Rope of normed heads [batch, heads, tokens, width], then concatenation, slices and flattening."""
    x, y = (F.rms_norm(heads(t[name]), (8,), m.w, 1e-6) for name in ("x", "y"))
    joined = torch.ops.comfy_kitchen.apply_rope1(torch.cat((x, y), 2), _rope_table(9, 8).to(x.device))
    return torch.cat((joined[:, 1:3, 2:].transpose(1, 2).flatten(2), joined[:, 2:, 2:, :].flatten(1, 2)[:, :7, :]), -1)


def _rope_both(m: Any, t: Inputs) -> Any:
    return torch.ops.comfy_kitchen.apply_rope(heads(t["x"]), heads(t["y"]), _rope_table(6, 8).to(t["x"].device))


CASES = (
    Case("rope", _rope, X),
    Case("rope by table", lambda m, t: torch.ops.comfy_kitchen.apply_rope1(
        heads(t["x"]), _rope_table(6, 8, 2.5).to(t["x"].device)), X),
    Case("rope of two axes", _rope_axes, X),
    Case("rope of norms", _rope_normed, {"x": (2, 6, 32), "y": (2, 3, 32)}, {"w": (8,)}),
    Case("rope transposed", lambda m, t: torch.ops.comfy_kitchen.apply_rope1(
        t["x"].transpose(2, 3), _rope_table(6, 8).to(t["x"].device)), {"x": (2, 4, 8, 6)}),
    Case("rope both", _rope_both, XY),
)  # fmt: skip
