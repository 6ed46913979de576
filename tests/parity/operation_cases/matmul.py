"""Matrix products."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .case import XY, Case, X, heads

CASES = (
    Case("linear", lambda m, t: F.linear(t["x"], m.w, m.b), X, {"w": (48, 32), "b": (48,)}),
    Case("linear slice", lambda m, t: F.linear(t["x"][:, 2:], m.w), X, {"w": (48, 32)}),
    Case("linear vector", lambda m, t: F.linear(t["x"], m.w, m.b), {"x": (2, 32)}, {"w": (48, 32), "b": (48,)}),
    Case("linear part", lambda m, t: F.linear(t["x"], m.w[16:]), X, {"w": (48, 32)}),
    Case("linear of nothing", lambda m, t: t["x"] + F.linear(t["x"][..., :0], m.w[:, :0], m.b) + F.linear(
        t["x"][..., :0], m.w[:, :0]), X, {"w": (32, 32), "b": (32,)}),
    Case("mm", lambda m, t: torch.mm(t["x"][0], m.w), X, {"w": (32, 48)}),
    Case("addmm", lambda m, t: torch.addmm(m.b, t["x"][0], m.w), X, {"w": (32, 48), "b": (48,)}),
    Case("bmm", lambda m, t: torch.bmm(t["x"], t["y"].transpose(1, 2)), XY),
    Case("matmul four", lambda m, t: heads(t["x"]) @ heads(t["y"]).transpose(-1, -2), XY),
    Case("matmul broadcast", lambda m, t: heads(t["x"]) @ t["y"].unflatten(-1, (8, 4))[:, :1],
         {"x": (2, 6, 32), "y": (2, 1, 32)}),
    Case("matmul weight", lambda m, t: heads(t["x"]) @ m.w, X, {"w": (4, 8, 5)}),
    Case("einsum heads", lambda m, t: torch.einsum("bhid,bhjd->bhij", heads(t["x"]), heads(t["y"])), XY),
    Case("einsum outer", lambda m, t: torch.einsum("bi,bj->bij", t["x"][:, 0], t["y"][:, 1]), XY, outliers=False),
    Case("baddbmm", lambda m, t: torch.baddbmm(t["y"], t["x"], t["z"], beta=0.5), {**XY, "z": (2, 32, 32)},
         outliers=False),
)  # fmt: skip
