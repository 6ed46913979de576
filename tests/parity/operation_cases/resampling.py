"""Operations that change the size of pictures."""

from __future__ import annotations

from torch.nn import functional as F

from .case import IMAGE, Case

CASES = (
    Case("upsample_nearest2d", lambda m, t: F.interpolate(t["x"], scale_factor=2.0), IMAGE),
    Case("nearest-exact", lambda m, t: F.interpolate(t["x"], scale_factor=2.0, mode="nearest-exact"), IMAGE),
    Case("upsample_nearest1d", lambda m, t: F.interpolate(t["x"], scale_factor=3.0), {"x": (2, 6, 9)}),
    Case("upsample_nearest1d any size", lambda m, t: F.interpolate(t["x"], size=13), {"x": (2, 6, 9)}),
    Case("upsample_nearest2d any size", lambda m, t: F.interpolate(t["x"], size=(11, 5)), IMAGE),
    Case("upsample_nearest2d smaller", lambda m, t: F.interpolate(t["x"], scale_factor=0.5), IMAGE),
    Case("upsample_nearest2d scale", lambda m, t: F.interpolate(t["x"], scale_factor=(1.7, 1.3)), IMAGE),
    Case("upsample_nearest3d", lambda m, t: F.interpolate(t["x"], scale_factor=(1, 2, 2)), {"x": (2, 3, 4, 5, 6)}),
    Case("upsample_nearest3d any size", lambda m, t: F.interpolate(t["x"], size=(7, 5, 8)), {"x": (2, 3, 4, 5, 6)}),
    Case("nearest-exact 1d", lambda m, t: F.interpolate(t["x"], size=13, mode="nearest-exact"), {"x": (2, 6, 9)}),
    Case("nearest-exact any size", lambda m, t: F.interpolate(t["x"], size=(4, 11), mode="nearest-exact"), IMAGE),
    Case("nearest-exact 3d", lambda m, t: F.interpolate(t["x"], size=(4, 3, 12), mode="nearest-exact"),
         {"x": (2, 3, 4, 5, 6)}),
    Case("pixel_shuffle", lambda m, t: F.pixel_shuffle(t["x"], 4) * 2, IMAGE),
    Case("pixel_unshuffle", lambda m, t: F.pixel_unshuffle(t["x"], 2), IMAGE),
)  # fmt: skip
