"""Rounding, and divisions that leave a remainder."""

from __future__ import annotations

import torch

from .case import XY, Case, Inputs, X


def _halves(t: Inputs) -> torch.Tensor:
    """Values halfway between whole numbers."""
    return torch.floor(t["x"] * 4) + 0.5


def _whole(t: Inputs) -> torch.Tensor:
    return (t["x"] * 50).long()


CASES = (
    Case("floor", lambda m, t: torch.floor(t["x"][..., 3:20] * 3), X),
    Case("ceil", lambda m, t: torch.ceil(t["x"] * 3), X),
    Case("trunc", lambda m, t: torch.trunc(t["x"] * 3), X),
    Case("round", lambda m, t: torch.round(t["x"] * 3), X),
    Case("round halves", lambda m, t: torch.round(_halves(t)), X),
    Case("sign", lambda m, t: torch.sign(torch.relu(t["x"]) - 0.5), X),
    Case("sgn", lambda m, t: torch.sgn(t["x"]), X),
    Case("to whole numbers", lambda m, t: (t["x"] * 3).long() * 0.5, X),
    Case("floor_divide", lambda m, t: t["x"] // 0.75, X),
    Case("floor_divide whole", lambda m, t: (_whole(t) // 7) * 1.0, X),
    Case("div trunc", lambda m, t: torch.div(_whole(t), 7, rounding_mode="trunc") * 1.0, X),
    Case("div of whole numbers", lambda m, t: _whole(t) / 7, X),
    Case("remainder", lambda m, t: t["x"] % 0.75, X, outliers=False),
    Case("remainder whole", lambda m, t: (_whole(t) % 49) * 1.0, X, outliers=False),
    Case("remainder tensor", lambda m, t: torch.remainder(t["x"], t["y"].abs() + 1), XY, outliers=False),
    Case("fmod", lambda m, t: torch.fmod(t["x"], 0.75), X, outliers=False),
)  # fmt: skip
