"""Padding, and cropping by negative amounts."""

from __future__ import annotations

from torch.nn import functional as F

from .case import IMAGE, Case

LINE, VOLUME = {"x": (2, 6, 9)}, {"x": (2, 3, 4, 5, 6)}

CASES = (
    Case("constant_pad_nd", lambda m, t: F.pad(t["x"], (0, 1, 2, 0)), IMAGE),
    Case("constant_pad_nd value", lambda m, t: F.pad(t["x"], (1, 2, 0, 3), value=-2.5), IMAGE),
    Case("constant_pad_nd crop", lambda m, t: F.pad(t["x"], (-1, 2, 1, -3)), IMAGE),
    Case("constant_pad_nd crop value", lambda m, t: F.pad(t["x"], (-1, 2, 1, -3), value=1.0), IMAGE),
    Case("constant_pad_nd no amount", lambda m, t: F.pad(t["x"], (0, 0, 0, 0)) * 2, IMAGE),
    Case("constant_pad_nd five dimensions", lambda m, t: F.pad(t["x"], (1, 0, 2, 1, 0, 2)), VOLUME),
    Case("constant_pad_nd channels of five", lambda m, t: F.pad(t["x"], (0, 0, 1, 0, 0, 0, 2, 1)), VOLUME),
    Case("constant_pad_nd all of five", lambda m, t: F.pad(t["x"], (1, 0, 0, 1, 2, 0, 1, 1, 0, 1)), VOLUME),
    Case("constant_pad_nd permuted", lambda m, t: F.pad(t["x"].permute(0, 2, 3, 1), (0, 3, 1, 0)), IMAGE),
    Case("circular pad", lambda m, t: F.pad(t["x"], (0, 1, 0, 1), mode="circular"), IMAGE),
    Case("replication_pad1d", lambda m, t: F.pad(t["x"], (3, 1), mode="replicate"), LINE),
    Case("replication_pad2d", lambda m, t: F.pad(t["x"], (1, 2, 0, 1), mode="replicate"), IMAGE),
    Case("replication_pad3d", lambda m, t: F.pad(t["x"], (1, 1, 2, 1, 2, 0), mode="replicate"), VOLUME),
    Case("replication_pad2d crop", lambda m, t: F.pad(t["x"], (-1, 2, 2, -2), mode="replicate"), IMAGE),
    Case("reflection_pad1d", lambda m, t: F.pad(t["x"], (4, 2), mode="reflect"), LINE),
    Case("reflection_pad1d wide", lambda m, t: F.pad(t["x"], (8, 6), mode="reflect"), LINE),
    Case("reflection_pad2d", lambda m, t: F.pad(t["x"], (1, 3, 0, 2), mode="reflect"), IMAGE),
    Case("reflection_pad3d", lambda m, t: F.pad(t["x"], (1, 1, 2, 1, 2, 0), mode="reflect"), VOLUME),
)  # fmt: skip
