"""Sums, means, variances and extremes over dimensions, and running sums."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from .case import IMAGE, XY, Case, X


def _floats(results: Iterable[Tensor]) -> tuple[Tensor, ...]:
    return tuple(x.float() for x in results)


CASES = (
    Case("mean", lambda m, t: t["x"].mean((1, 2)), X),
    Case("mean last", lambda m, t: t["x"].mean(-1, keepdim=True) + t["x"], X),
    Case("sum", lambda m, t: t["x"].sum(1), X),
    Case("cumsum", lambda m, t: t["x"].cumsum(-1), X),
    Case("cumsum first", lambda m, t: t["x"].cumsum(1) * 2, X),
    Case("var", lambda m, t: t["x"].var((1, 2)), X),
    Case("var all", lambda m, t: t["x"].var(unbiased=False) * t["x"], X),
    Case("var correction", lambda m, t: t["x"].var(1, correction=0, keepdim=True), X),
    Case("std", lambda m, t: t["x"].std(-1, keepdim=True), X),
    Case("var_mean", lambda m, t: torch.var_mean(t["x"], 1, correction=0, keepdim=True), X),
    Case("linalg_vector_norm", lambda m, t: F.normalize(t["x"], dim=1), IMAGE),
    Case("linalg_vector_norm five", lambda m, t: F.normalize(t["x"], dim=1), {"x": (2, 8, 3, 4, 5)}),
    Case("linalg_vector_norm last", lambda m, t: torch.linalg.vector_norm(t["x"], dim=-1, keepdim=True) / 6, X),
    Case("linalg_vector_norm one", lambda m, t: torch.linalg.vector_norm(t["x"], 1, dim=1), X),
    Case("max", lambda m, t: t["x"].max(), X),
    Case("max dim", lambda m, t: _floats(t["x"].max(1)), X),
    Case("max other", lambda m, t: torch.max(t["x"], t["y"]), XY),
    Case("min", lambda m, t: t["x"].min(), X),
    Case("min dim", lambda m, t: _floats(t["x"].min(-1, keepdim=True)), X),
    Case("amax", lambda m, t: t["x"].amax((1, 2), keepdim=True) - t["x"], X),
    Case("amin", lambda m, t: t["x"].amin(1), X),
    Case("amax of many rows", lambda m, t: t["x"].amax(-1), {"x": (70000, 3)}),
    Case("argmax", lambda m, t: t["x"].argmax(1) * 1.0, X),
    Case("argmin", lambda m, t: t["x"].argmin() * 1.0, X),
    Case("any", lambda m, t: (t["x"] > 2).any(-1) * 1.0, X),
    Case("all", lambda m, t: (t["x"] > -1).all(1) * 1.0, X),
    Case("logsumexp", lambda m, t: t["x"].logsumexp(1), X),
    Case("_log_softmax", lambda m, t: t["x"].log_softmax(-1), X),
)  # fmt: skip
