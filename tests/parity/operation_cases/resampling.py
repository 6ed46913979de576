"""Operations that change the size of pictures."""

from __future__ import annotations

from torch.nn import functional as F

from .case import IMAGE, Case

CASES = (
    Case("upsample_nearest2d", lambda m, t: F.interpolate(t["x"], scale_factor=2.0), IMAGE),
    Case("nearest-exact", lambda m, t: F.interpolate(t["x"], scale_factor=2.0, mode="nearest-exact"), IMAGE),
    Case("pixel_shuffle", lambda m, t: F.pixel_shuffle(t["x"], 4) * 2, IMAGE),
    Case("pixel_unshuffle", lambda m, t: F.pixel_unshuffle(t["x"], 2), IMAGE),
)  # fmt: skip
