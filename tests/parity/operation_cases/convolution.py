"""Convolutions."""

from __future__ import annotations

from torch.nn import functional as F

from .case import IMAGE, Case

CASES = (
    Case("convolution", lambda m, t: F.conv2d(t["x"], m.w, m.b, padding=1), IMAGE, {"w": (16, 32, 3, 3), "b": (16,)}),
    Case("convolution stride", lambda m, t: F.conv2d(t["x"], m.w, stride=2), IMAGE, {"w": (16, 32, 3, 3)}),
    Case("convolution 1x1", lambda m, t: F.conv2d(t["x"], m.w, m.b), IMAGE, {"w": (16, 32, 1, 1), "b": (16,)}),
)  # fmt: skip
