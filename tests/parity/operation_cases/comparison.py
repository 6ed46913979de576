"""Comparisons, logic, and choices by a condition."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .case import XY, Case, Inputs, X, undivided

_INFINITY = float("inf")
_EVERY_THIRD = {"mask": torch.arange(32) % 3 == 0}


def _whole(x: Tensor) -> Tensor:
    """Values of which many are equal."""
    return (x * 2).round()


def _compared(name: str) -> tuple[Case, ...]:
    compare: Callable[..., Tensor] = getattr(torch, name)

    def both(m: object, t: Inputs) -> Tensor:
        return compare(_whole(t["x"]), _whole(t["y"])) * t["y"]

    def number(m: object, t: Inputs) -> Tensor:
        return compare(_whole(t["x"]), 1.0) * t["y"]

    return Case(name, both, XY), Case(f"{name} number", number, XY)


def _logic(t: Inputs) -> Tensor:
    positive, large = t["x"] > 0, t["y"].abs() > 1
    some = (positive & large) | (~positive & ~large).logical_and(t["x"] < -0.5)
    return some ^ torch.logical_xor(positive, t["y"]).logical_not() | torch.logical_or(large, t["x"] > 1)


def _not_finite(x: Tensor) -> Tensor:
    """NaN below 0, infinity of both signs in some places above."""
    x = torch.where(x.abs() < 0.1, 0.1, x)
    return torch.where(x > 1.5, -_INFINITY, torch.where((x > 1) & (x < 1.5), _INFINITY, torch.log(x)))


CASES = (
    *(case for name in ("gt", "lt", "ge", "le", "eq", "ne") for case in _compared(name)),
    Case("logic", lambda m, t: _logic(t) * t["x"], XY),
    Case("logic undivided", lambda m, t: undivided(torch.ops.aten.__and__.Tensor, t["x"] > 0, t["y"] > 0) * t["x"], XY),
    Case("bool", lambda m, t: _whole(t["x"]).bool().float() - t["y"].bool().logical_not().float(), XY),
    Case("isnan", lambda m, t: _not_finite(t["x"]).isnan() * 1.0, X),
    Case("isinf", lambda m, t: _not_finite(t["x"]).isinf() * 1.0, X),
    Case("nan_to_num", lambda m, t: torch.nan_to_num(_not_finite(t["x"]), 0.5, 7.0, -3.0), X),
    Case("nan_to_num_ plain", lambda m, t: torch.nan_to_num_(_not_finite(t["x"])) * 1e-38, X),
    Case("where", lambda m, t: torch.where(t["x"] > t["y"], t["x"], t["y"] * 2), XY),
    Case("where broadcast", lambda m, t: torch.where(t["x"] > 0, t["y"], t["z"]),
         {"x": (6, 1), "y": (2, 6, 32), "z": (2, 1, 32)}),
    Case("where numbers", lambda m, t: torch.where(t["x"] > 0, 1.0, -2.5) * torch.where(t["x"] > 1, t["x"], 0.0), X),
    Case("where filled", lambda m, t: torch.where(
        t["x"][..., :1] > 0, t["x"][..., :1], torch.full((*t["x"].shape[:-1], 1 << 18), 0.5)
    ), X),
    Case("where not chosen", lambda m, t: torch.where(t["x"] > 0, torch.log(t["x"]), t["x"]), X),
    Case("where by the host", lambda m, t: torch.where(t["mask"], t["x"], t["y"]), XY, host=_EVERY_THIRD),
    Case("where infinite", lambda m, t: torch.where(t["x"] > -1, t["x"], -_INFINITY).softmax(-1), X),
    Case("where infinite by the host", lambda m, t: torch.where(
        t["mask"], t["x"], torch.full((32,), -_INFINITY)).softmax(-1), X, host=_EVERY_THIRD),
    Case("masked_fill", lambda m, t: t["x"].masked_fill(t["mask"], -3.0), X, host=_EVERY_THIRD),
    Case("masked_fill infinite", lambda m, t: t["x"].masked_fill(t["mask"], -_INFINITY).softmax(-1), X,
         host=_EVERY_THIRD),
    Case("masked_fill twice", lambda m, t: t["x"].masked_fill(t["mask"], -_INFINITY).masked_fill_(
        t["x"] > 1, 0.25).exp(), {"x": (2, 6, 32)}, host=_EVERY_THIRD, outliers=False),
    Case("masked_fill by the device", lambda m, t: t["x"].masked_fill(t["y"] > 0, -_INFINITY).softmax(-1), XY),
    Case("masked_fill with a tensor", lambda m, t: t["x"].masked_fill(t["y"] > 0, t["y"].mean()), XY),
    Case("maximum", lambda m, t: torch.maximum(t["x"], t["y"]), XY),
    Case("minimum", lambda m, t: torch.minimum(t["x"], t["y"][:, :1]), XY),
)  # fmt: skip
