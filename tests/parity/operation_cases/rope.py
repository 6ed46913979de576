"""Rotary position embeddings."""

from __future__ import annotations

import functools
from collections.abc import Callable
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


def _forms(name: str, tables: dict[str, Callable[[Tensor], Tensor]]) -> tuple[Case, ...]:
    """An operation by tables of every kind, and in place; heads come before tokens or after them."""
    both, normed = not name.endswith("1"), name.startswith("rms")

    def run(m: Any, t: Inputs, table: Callable[[Tensor], Tensor], in_place: bool) -> Any:
        xs = [heads(t["x"]).transpose(1, 2) * 1.0, t["y"].unflatten(-1, (4, 8)) * 1.0][: 1 + both]
        scales = [m.w, m.v][: 1 + both] if normed else []
        if not in_place:
            return getattr(torch.ops.comfy_kitchen, name)(*xs, table(t["z"]), *scales, *([1e-5] if normed else []))
        getattr(torch.ops.comfy_kitchen, f"{name}_")(*xs, table(t["z"]), *scales)
        return tuple(x * 2 for x in xs)

    shapes = {"x": (2, 6, 32), "y": (2, 6, 32), "z": (2, 6, 1, 4)}
    weights = {"w": (8,), "v": (8,)} if normed else {}
    return tuple(
        Case(f"{name} {kind}", functools.partial(run, table=table, in_place=kind == "in place"), shapes, weights)
        for kind, table in tables.items()
    )


def _device_table(angle: Tensor) -> Tensor:
    angle = angle.clamp(-3, 3)
    return torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), -1).unflatten(-1, (2, 2))


_TABLES: dict[str, Callable[[Tensor], Tensor]] = {
    "by position": lambda z: _rope_table(6, 8)[0, 0][None, :, None].to(z.device),
    "by table": lambda z: _rope_table(6, 8, 2.5)[0, 0][None, :, None].to(z.device),
    "by the device": _device_table,
    "in place": lambda z: _rope_table(6, 8)[0, 0][None, :, None].to(z.device),
}
_ENDINGS = ("", "1", "_split_half", "_split_half1")
_NAMES = [f"{kind}{ending}" for kind in ("apply_rope", "rms_rope") for ending in _ENDINGS]


def _partly(m: Any, t: Inputs) -> Any:
    """Only the first four channels of each head rotate."""
    x, y = (t[name].unflatten(-1, (4, 8)) for name in ("x", "y"))
    return torch.ops.comfy_kitchen.rms_rope_split_half(x, y, _rope_table(6, 4)[0, 0][None, :, None], m.w, None, 1e-6, 4)


def _video(m: Any, t: Inputs) -> Tensor:
    """As LTX-2: every pair of every head rotates by a fraction of the frame, the row or the column."""
    axes = torch.meshgrid(*(torch.arange(n) / n for n in (4, 16, 16)), indexing="ij")
    angle = torch.stack([axis.flatten() for axis in axes], -1)[:, None] * torch.logspace(0, 2, 66)[:, None]
    matrices = _rotations(angle.flatten(1).unflatten(1, (3, 66)))[0]  # [1, tokens, heads, pairs, 2, 2]
    return torch.ops.comfy_kitchen.apply_rope_split_half1(t["x"], matrices.to(t["x"].device))


CASES = (
    *(case for name in _NAMES for case in _forms(name, _TABLES)),
    Case("rms_rope_split_half partly", _partly, XY, {"w": (8,)}),
    Case("rope of five dimensions", lambda m, t: torch.ops.comfy_kitchen.apply_rope1(
        t["x"], _rope_table(5, 8)[:, :, None]), {"x": (2, 3, 2, 5, 8)}),
    Case("rope", _rope, X),
    Case("rope by table", lambda m, t: torch.ops.comfy_kitchen.apply_rope1(
        heads(t["x"]), _rope_table(6, 8, 2.5).to(t["x"].device)), X),
    Case("rope of two axes", _rope_axes, X),
    Case("rope of norms", _rope_normed, {"x": (2, 6, 32), "y": (2, 3, 32)}, {"w": (8,)}),
    Case("rope transposed", lambda m, t: torch.ops.comfy_kitchen.apply_rope1(
        t["x"].transpose(2, 3), _rope_table(6, 8).to(t["x"].device)), {"x": (2, 4, 8, 6)}),
    Case("rope both", _rope_both, XY),
    Case("rope of a video", _video, {"x": (1, 1024, 3, 132)}),
)  # fmt: skip
