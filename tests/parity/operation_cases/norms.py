"""Normalisation layers and softmax."""

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
    Case("softmax", lambda m, t: torch.softmax(t["x"], -1), X),
    Case("adaln", lambda m, t: torch.ops.comfy_kitchen.adaln(t["x"], t["y"], t["z"], 1e-6),
         {"x": (2, 6, 32), "y": (2, 1, 32), "z": (2, 1, 32)}),
    Case("rms_adaln", lambda m, t: torch.ops.comfy_kitchen.rms_adaln(t["x"], t["y"], t["z"], 1e-6),
         {"x": (2, 6, 32), "y": (2, 1, 32), "z": (2, 6, 32)}),
    Case("softmax first", lambda m, t: torch.softmax(t["x"], 1) * 2, X),
)  # fmt: skip
