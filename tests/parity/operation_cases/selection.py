"""Picking elements by number, and putting them in order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .case import XY, Case, Inputs, X, undivided

_IDS = {"ids": torch.tensor([[3, 19, 0], [7, 7, 2]])}
_PLACES = {"a": torch.tensor([0, 1]), "b": torch.tensor([5, -1])}
_GRID = {"a": torch.tensor([[2, 0, 1], [1, -1, 0]])}


def _numbers(t: Inputs, below: int) -> torch.Tensor:
    """Whole numbers from 0 to below `below` that the device computes, [2, 6]."""
    return (t["x"][..., 0].abs() * 7 % below).floor().long()


def _floats(results: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(x.float() for x in results)


def _put(x: Tensor, where: Any, values: Tensor) -> Tensor:
    x = x * 1.5
    x[where] = values
    return x


def _tripled(x: Tensor, rows: Tensor) -> Tensor:
    """x [rows, width] with those rows tripled."""
    x[rows] = F.silu(x[rows]) * 3
    return x


def _copied(x: Tensor, dim: int, where: Tensor, values: Tensor) -> Tensor:
    """x after a copy into itself, as what stays from call to call is written."""
    x.index_copy_(dim, where, values)
    return x * 2


CASES = (
    Case("index_copy into an input", lambda m, t: _copied(t["x"], 1, t["i"], t["y"][:, :2]), XY,
         host={"i": torch.tensor([4, 1])}),
    Case("index_copy into heads of an input", lambda m, t: _copied(t["x"], 2, t["i"], t["y"][..., :1, :]),
         {"x": (1, 4, 6, 8), "y": (1, 4, 6, 8)}, host={"i": torch.tensor([5])}),
    Case("index_copy into a result", lambda m, t: _copied(t["x"] * 3, 1, t["i"], t["y"][:, :2]) + t["x"], XY,
         host={"i": torch.tensor([4, 1])}),
    Case("index alike", lambda m, t: t["x"][:, t["i"]], X, host={"i": torch.zeros(4, dtype=torch.int64)}),
    Case("index_put", lambda m, t: _put(t["x"], (t["i"],), t["y"][:1]), XY, host={"i": torch.tensor([-1])}),
    Case("index_put several", lambda m, t: _put(t["x"].transpose(0, 1), (t["i"],), t["y"].transpose(0, 1)[:3]), XY,
         host={"i": torch.tensor([4, 0, -1])}),
    Case("index_put one for all", lambda m, t: _put(t["x"], (t["i"], t["j"]), t["y"][0, 0]), XY,
         host={"i": torch.tensor([0, 1]), "j": torch.tensor([5, 2])}),
    Case("index_put along a later dimension", lambda m, t: _put(t["x"], (slice(None), t["i"]), t["y"][:, :2]), XY,
         host={"i": torch.tensor([4, 1])}),
    Case("index_put along the last dimension", lambda m, t: _put(t["x"], (..., t["i"]), t["y"][..., :2]), XY,
         host={"i": torch.tensor([30, 1])}),
    Case("index_put nothing", lambda m, t: _put(t["x"], (t["i"],), t["y"][:0]), XY,
         host={"i": torch.zeros(0, dtype=torch.long)}),
    Case("index_put number", lambda m, t: _put(t["x"], (t["i"],), torch.tensor(2.5)), X, host={"i": torch.tensor([1])}),
    Case("index_put where true", lambda m, t: _put(t["x"], (t["k"],), t["y"][0, :4]), XY,
         host={"k": torch.arange(12).reshape(2, 6) % 3 == 1}),
    Case("index_put of all", lambda m, t: _put(t["x"], (slice(None), torch.arange(6)), t["y"]), XY),
    Case("index_put of all in another order",
         lambda m, t: _put(t["x"], (slice(None), torch.tensor([5, 0, 3, 1, 2, 4])), t["y"]), XY),
    Case("index of all", lambda m, t: t["x"][:, torch.arange(6)] * 2, X),
    Case("rows of the device", lambda m, t: _tripled(t["x"].flatten(0, 1) * 1.0, t["x"].flatten(0, 1)[:, 0] > 0), X,
         outliers=False),
    Case("embedding", lambda m, t: F.embedding(t["ids"], m.w), {}, {"w": (20, 32)}, host=_IDS, outliers=False),
    Case("embedding of a part", lambda m, t: F.embedding(t["ids"], m.w[7:, 8:24]), {}, {"w": (27, 32)}, host=_IDS,
         outliers=False),
    Case("embedding by the device", lambda m, t: F.embedding(_numbers(t, 20), m.w), X, {"w": (20, 32)},
         outliers=False),
    Case("index", lambda m, t: t["x"][t["a"], t["b"]], X, host=_PLACES),
    Case("index later", lambda m, t: t["x"][:, t["a"]], X, host=_GRID),
    Case("index last", lambda m, t: t["x"][:, :, t["a"]] * 2, X, host=_GRID),
    Case("index apart", lambda m, t: t["x"][t["a"], :, t["b"]], X, host=_PLACES),
    Case("index by the device", lambda m, t: t["x"][:, _numbers(t, 6) - 3], X, outliers=False),
    Case("index by both", lambda m, t: t["x"][torch.arange(2)[:, None], _numbers(t, 6)], X, outliers=False),
    Case("index_select", lambda m, t: t["x"].index_select(1, t["a"]), X, host={"a": torch.tensor([4, 0, 0, 5])}),
    Case("gather", lambda m, t: t["x"].gather(1, t["a"]), X, host={"a": torch.arange(48).reshape(2, 3, 8) % 6}),
    Case("gather by the device", lambda m, t: t["x"].gather(1, _numbers(t, 6)[:, :, None].expand(2, 6, 32)), X,
         outliers=False),
    Case("sort", lambda m, t: _floats(t["x"].sort(-1)), X),
    Case("sort descending", lambda m, t: t["x"].sort(1, descending=True)[0], X),
    Case("argsort", lambda m, t: t["x"].argsort(1, descending=True) * 1.0, X),
    Case("argsort undivided", lambda m, t: undivided(torch.ops.aten.argsort.default, t["x"], 1) * 1.0, X),
    Case("topk", lambda m, t: _floats(t["x"].topk(5)), X),
    Case("topk smallest", lambda m, t: _floats(t["x"].topk(2, 1, largest=False)), X),
)  # fmt: skip
