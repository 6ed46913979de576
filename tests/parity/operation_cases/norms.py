"""Normalisation layers, softmax, sums and means."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .case import IMAGE, Case, X, heads

CASES = (
    Case("layer_norm", lambda m, t: F.layer_norm(t["x"], (32,), m.w, m.b, 1e-6), X, {"w": (32,), "b": (32,)}),
    Case("layer_norm plain", lambda m, t: F.layer_norm(t["x"][:, 1:], (32,), eps=1e-6), X),
    Case("rms_norm", lambda m, t: F.rms_norm(heads(t["x"]), (8,), m.w, 1e-6), X, {"w": (8,)}),
    Case("rms_norm pattern", lambda m, t: m.w * (t["x"] * torch.rsqrt(t["x"].pow(2).mean(-1, keepdim=True) + 1e-6)), X,
         {"w": (32,)}),
    Case("group_norm", lambda m, t: F.group_norm(t["x"], 8, m.w, m.b, 1e-6), IMAGE, {"w": (32,), "b": (32,)}),
    Case("group_norm part", lambda m, t: F.group_norm(t["x"][1:], 2, eps=1e-6), {"x": (2, 6, 3, 3)}),
    Case("softmax", lambda m, t: torch.softmax(t["x"], -1), X),
    Case("mean", lambda m, t: t["x"].mean((1, 2)), X),
    Case("mean last", lambda m, t: t["x"].mean(-1, keepdim=True) + t["x"], X),
    Case("sum", lambda m, t: t["x"].sum(1), X),
    Case("linalg_vector_norm", lambda m, t: F.normalize(t["x"], dim=1), IMAGE, outliers=False),
)  # fmt: skip
