"""Pictures cut into patches and put together from them."""

from __future__ import annotations

from torch.nn import functional as F

from .case import IMAGE, Case

PATCHES = {"x": (2, 4 * 6, 12)}  # of 2x3 pixels and 4 channels

CASES = (
    Case("unfold", lambda m, t: F.unfold(t["x"], 2, stride=2), IMAGE),
    Case("unfold with a rest", lambda m, t: F.unfold(t["x"].permute(0, 3, 1, 2), (4, 3), stride=(4, 3)), IMAGE),
    Case("unfold overlapping", lambda m, t: F.unfold(t["x"], (4, 3), 1, (2, 1), 2), IMAGE),
    Case("unfold dilated", lambda m, t: F.unfold(t["x"][0], 2, (2, 3), 0, (1, 2)), IMAGE),
    Case("fold", lambda m, t: F.fold(t["x"], (6, 12), (2, 3), stride=(2, 3)), PATCHES),
    Case("fold with a rest", lambda m, t: F.fold(t["x"], (7, 13), (2, 3), stride=(2, 3)), PATCHES),
    Case("fold overlapping", lambda m, t: F.fold(t["x"], (5, 4), (2, 3), 1, (0, 1), (2, 1)) * 2, {"x": (2, 24, 8)}),
    Case("fold transposed", lambda m, t: F.fold(t["x"].transpose(1, 2), (6, 12), (2, 3), stride=(2, 3)),
         {"x": (2, 12, 24)}),
)  # fmt: skip
