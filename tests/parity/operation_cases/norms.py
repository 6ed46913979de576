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
    Case("group_norm part", lambda m, t: F.group_norm(t["x"][1:], 2, eps=1e-6), {"x": (2, 6, 3, 3)}),
    Case("batch_norm", lambda m, t: F.batch_norm(t["x"], m.mean, m.v * m.v, m.w, m.b), IMAGE,
         {"mean": (32,), "v": (32,), "w": (32,), "b": (32,)}),
    Case("batch_norm plain", lambda m, t: F.batch_norm(t["x"].permute(0, 3, 1, 2), m.mean, m.v * m.v, eps=1e-3), IMAGE,
         {"mean": (8,), "v": (8,)}),
    Case("batch_norm of rows", lambda m, t: F.batch_norm(t["x"][:, 0], torch.zeros(32), torch.ones(32) * 4, m.w), X,
         {"w": (32,)}),
    Case("instance_norm", lambda m, t: F.instance_norm(t["x"], weight=m.w, bias=m.b), IMAGE, {"w": (32,), "b": (32,)}),
    Case("instance_norm of waves", lambda m, t: F.instance_norm(t["x"]), X),
    Case("weight_norm", lambda m, t: F.linear(t["x"], torch._weight_norm(m.v, m.g, 0)), X,
         {"v": (48, 32), "g": (48, 1)}),
    Case("weight_norm of the last dimension", lambda m, t: t["x"] * torch._weight_norm(m.v, m.g, 2), X,
         {"v": (2, 6, 32), "g": (1, 1, 32)}),
    Case("weight_norm of a middle dimension", lambda m, t: t["x"] * torch._weight_norm(m.v, m.g, 1), X,
         {"v": (2, 6, 32), "g": (1, 6, 1)}),
    Case("softmax", lambda m, t: torch.softmax(t["x"], -1), X),
    Case("adaln", lambda m, t: torch.ops.comfy_kitchen.adaln(t["x"], t["y"], t["z"], 1e-6),
         {"x": (2, 6, 32), "y": (2, 1, 32), "z": (2, 1, 32)}),
    Case("rms_adaln", lambda m, t: torch.ops.comfy_kitchen.rms_adaln(t["x"], t["y"], t["z"], 1e-6),
         {"x": (2, 6, 32), "y": (2, 1, 32), "z": (2, 6, 32)}),
    Case("softmax first", lambda m, t: torch.softmax(t["x"], 1) * 2, X),
)  # fmt: skip
