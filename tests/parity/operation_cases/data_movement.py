"""Operations that move elements without computing with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .case import IMAGE, XY, Case, Inputs, X, heads


def _in_place(m: Any, t: Inputs) -> Tensor:
    x = t["x"] * 1.5
    x[:, 2:5] += t["y"]
    x.mul_(0.5)
    return x


def _in_place_window(m: Any, t: Inputs) -> Tensor:
    x = torch.zeros_like(t["x"])
    x[:, :, 1:4, 2:5] = t["x"][:, :, 1:4, 2:5] * 2
    x[:, :, 0] = t["x"][:, :, 1]
    return x + t["x"]


def _view_in_place(m: Any, t: Inputs) -> Tensor:
    return (t["x"] * 2).as_strided_((2, 3, 8), (192, 64, 2), 1).add_(1)


def _empty_slice(m: Any, t: Inputs) -> Tensor:
    x = t["x"] * 1.5
    nothing = F.silu(F.linear(x[:, 6:], m.w)).mul_(2)
    x[:, :0] = t["x"][:, :0] * 3
    return torch.cat((F.linear(x, m.w), nothing, torch.zeros(0)), 1)


def _written_alike(m: Any, t: Inputs) -> Tensor:
    x = torch.full((2, 8, 32), 0.5)
    x[:, 1:7] = t["x"]
    return x


CASES = (
    Case("clone", lambda m, t: t["x"].transpose(1, 2).clone(memory_format=torch.contiguous_format), X),
    Case("contiguous", lambda m, t: t["x"].permute(2, 0, 1).contiguous() * 2, X),
    Case("reshape copies", lambda m, t: t["x"].transpose(1, 2).reshape(2, -1) * 1.5, X),
    Case("_unsafe_view", lambda m, t: torch.einsum("bik,bjk->bij", t["x"], t["y"]), XY),
    Case("to", lambda m, t: t["x"].double().float(), X),
    Case("fill", lambda m, t: (t["x"] * 1).fill_(2.5) + t["x"], X),
    Case("fill with a tensor", lambda m, t: (t["x"] * 1).fill_(t["x"].sum()) + t["x"], X),
    Case("zero", lambda m, t: (t["x"] * 1).zero_() + t["x"], X),
    Case("in place", _in_place, {"x": (2, 8, 32), "y": (2, 3, 32)}),
    Case("in place window", _in_place_window, IMAGE),
    Case("patches", lambda m, t: t["x"].unflatten(3, (4, 2)).unflatten(2, (3, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3)
         .flatten(1, 2), IMAGE),
    Case("cat tokens", lambda m, t: torch.cat((t["x"], t["y"]), 1), {"x": (2, 6, 32), "y": (2, 3, 32)}),
    Case("cat channels", lambda m, t: torch.cat((t["x"][..., :8], t["y"]), -1), {"x": (2, 6, 32), "y": (2, 6, 24)}),
    Case("cat heads", lambda m, t: torch.cat((heads(t["x"]), heads(t["y"])), 2), {"x": (2, 6, 32), "y": (2, 3, 32)}),
    Case("cat one", lambda m, t: torch.cat((t["x"][:, :1], t["y"]), 1), {"x": (2, 6, 32), "y": (2, 3, 32)}),
    Case("cat alone", lambda m, t: torch.cat((t["x"][:, 1:4],), 1) * 2, X),
    Case("cat transposed", lambda m, t: torch.cat((t["x"].transpose(1, 2), t["y"].transpose(1, 2)), 2)[:, 3:, 1:] * 2,
         {"x": (2, 6, 32), "y": (2, 3, 32)}),
    Case("cat zeros", lambda m, t: torch.cat((torch.zeros(2, 3, 32), t["x"], t["x"] * 2, torch.zeros(2, 1, 32)), 1), X),
    Case("cat zeros and one", lambda m, t: torch.cat((torch.zeros(2, 32, 3), t["x"].transpose(1, 2)), 2) + 1, X),
    Case("cat ones", lambda m, t: torch.cat((torch.ones(2, 2, 32), t["x"], torch.zeros(2, 1, 32), t["x"]), 1), X),
    Case("constants alike", lambda m, t: t["x"] * torch.full((6, 32), 0.5) + torch.ones(2, 6, 1), X),
    Case("constants alike written", _written_alike, X),
    Case("cat three", lambda m, t: torch.cat((t["x"], t["x"] * 2, t["x"]), 0), X),
    Case("stack", lambda m, t: torch.stack((t["x"], t["y"]), 2), XY),
    Case("repeat", lambda m, t: t["x"].repeat(2, 1, 3), X),
    Case("repeat new dimensions", lambda m, t: t["x"].transpose(0, 1).repeat(3, 1, 2, 2, 1), IMAGE),
    Case("repeat none", lambda m, t: torch.cat((t["x"], (t["x"] * m.w).repeat(1, 0, 1)), 1) * 2, X, {"w": (32,)}),
    Case("empty slice", _empty_slice, X, {"w": (8, 32)}),
    Case("sum of nothing", lambda m, t: t["x"] + F.linear(t["x"][:, :0], m.w).sum() + t["x"][:, 6:].sum((1, 2)).sum(),
         X, {"w": (8, 32)}),
    Case("expand", lambda m, t: t["x"][:, :1].expand(2, 6, 32).reshape(-1, 32) * 2, X),
    Case("flip", lambda m, t: t["x"].flip(1), X),
    Case("flip two", lambda m, t: t["x"].permute(0, 2, 3, 1).flip(-1, 0) * 2, IMAGE),
    Case("flip a weight", lambda m, t: t["x"] + m.w.flip((0, 1)), X, {"w": (6, 32)}),
    Case("roll", lambda m, t: t["x"].roll((-2, 3), (1, 2)), X),
    Case("roll of windows", lambda m, t: t["x"].permute(0, 2, 3, 1).roll((5, -4), (1, 2)).unflatten(1, (3, 2)), IMAGE),
    Case("flip of one", lambda m, t: t["x"][:, 2:3].flip(1) * 2, X),
    Case("roll of nothing", lambda m, t: t["x"][:, 1:4].roll((3, 0), (1, 0)) * 2, X),
    Case("as_strided in place", _view_in_place, X),
)  # fmt: skip
