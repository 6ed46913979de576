"""Operations that change the size of pictures."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from .case import IMAGE, Case, Inputs

WAVE = {"x": (2, 6, 10)}
VIDEO = {"x": (2, 4, 3, 6, 8)}


def _to(mode: str, size: tuple[int, ...], **how: bool) -> Callable[[object, Inputs], Tensor]:
    return lambda _, t: F.interpolate(t["x"], size, mode=mode, **how)


def _by(mode: str, factors: tuple[float, ...], **how: bool) -> Callable[[object, Inputs], Tensor]:
    return lambda _, t: F.interpolate(t["x"], scale_factor=factors, mode=mode, **how)


CASES = (
    Case("upsample_nearest2d", lambda m, t: F.interpolate(t["x"], scale_factor=2.0), IMAGE),
    Case("nearest-exact", lambda m, t: F.interpolate(t["x"], scale_factor=2.0, mode="nearest-exact"), IMAGE),
    Case("bilinear larger", _to("bilinear", (12, 24)), IMAGE),
    Case("bilinear smaller and larger", _to("bilinear", (4, 11)), IMAGE),
    Case("bilinear corners", _to("bilinear", (9, 5), align_corners=True), IMAGE),
    Case("bilinear one pixel", lambda m, t: F.interpolate(t["x"][:, :, 2:3, 1:2], (4, 2), mode="bilinear"), IMAGE),
    Case("bilinear by a factor", _by("bilinear", (1.7, 0.55)), IMAGE),
    Case("bilinear antialias", _to("bilinear", (4, 3), antialias=True), IMAGE),
    Case("bilinear of channels last", lambda m, t: F.interpolate(t["x"].permute(0, 3, 1, 2), (9, 24), mode="bilinear"),
         IMAGE),
    Case("bicubic", _to("bicubic", (11, 5)), IMAGE),
    Case("bicubic corners", _to("bicubic", (11, 5), align_corners=True), IMAGE),
    Case("bicubic by a factor", _by("bicubic", (0.62, 1.82)), IMAGE),
    Case("bicubic antialias", _to("bicubic", (4, 19), antialias=True), IMAGE),
    Case("bicubic of a table", lambda m, t: t["x"] + F.interpolate(m.w, (6, 8), mode="bicubic"), IMAGE,
         {"w": (1, 32, 5, 5)}),
    Case("linear", _to("linear", (7,)), WAVE),
    Case("linear corners", _to("linear", (25,), align_corners=True), WAVE),
    Case("trilinear", _to("trilinear", (5, 4, 16)), VIDEO),
    Case("trilinear corners", _to("trilinear", (2, 9, 8), align_corners=True), VIDEO),
    Case("avg_pool1d", lambda m, t: F.avg_pool1d(t["x"], 2), WAVE),
    Case("avg_pool2d", lambda m, t: F.avg_pool2d(t["x"], 2), IMAGE),
    Case("avg_pool2d padded", lambda m, t: F.avg_pool2d(t["x"], (3, 5), (2, 1), (1, 2)), IMAGE),
    Case("avg_pool2d pixels only", lambda m, t: F.avg_pool2d(t["x"], 3, 2, 1, True, False), IMAGE),
    Case("avg_pool3d", lambda m, t: F.avg_pool3d(t["x"], (2, 3, 2), (1, 3, 2)), VIDEO),
    Case("adaptive_avg_pool2d", lambda m, t: F.adaptive_avg_pool2d(t["x"], (4, 3)), IMAGE),
    Case("adaptive_avg_pool3d", lambda m, t: F.adaptive_avg_pool3d(t["x"], (2, 4, 5)), VIDEO),
    Case("max_pool2d", lambda m, t: F.max_pool2d(t["x"], 2), IMAGE),
    Case("max_pool2d padded", lambda m, t: F.max_pool2d(t["x"], (3, 5), (2, 1), (1, 2)), IMAGE),
    Case("max_pool2d ceil", lambda m, t: F.max_pool2d(t["x"].permute(0, 3, 1, 2), 2, 1, ceil_mode=True), IMAGE),
    Case("upsample_nearest1d", lambda m, t: F.interpolate(t["x"], scale_factor=3.0), {"x": (2, 6, 9)}),
    Case("upsample_nearest1d any size", lambda m, t: F.interpolate(t["x"], size=13), {"x": (2, 6, 9)}),
    Case("upsample_nearest2d any size", lambda m, t: F.interpolate(t["x"], size=(11, 5)), IMAGE),
    Case("upsample_nearest2d smaller", lambda m, t: F.interpolate(t["x"], scale_factor=0.5), IMAGE),
    Case("upsample_nearest2d scale", lambda m, t: F.interpolate(t["x"], scale_factor=(1.7, 1.3)), IMAGE),
    Case("upsample_nearest2d nearly twice", lambda m, t: F.interpolate(t["x"], scale_factor=2.1), IMAGE),
    Case("upsample_nearest3d", lambda m, t: F.interpolate(t["x"], scale_factor=(1, 2, 2)), {"x": (2, 3, 4, 5, 6)}),
    Case("upsample_nearest3d any size", lambda m, t: F.interpolate(t["x"], size=(7, 5, 8)), {"x": (2, 3, 4, 5, 6)}),
    Case("nearest-exact 1d", lambda m, t: F.interpolate(t["x"], size=13, mode="nearest-exact"), {"x": (2, 6, 9)}),
    Case("nearest-exact any size", lambda m, t: F.interpolate(t["x"], size=(4, 11), mode="nearest-exact"), IMAGE),
    Case("nearest-exact 3d", lambda m, t: F.interpolate(t["x"], size=(4, 3, 12), mode="nearest-exact"),
         {"x": (2, 3, 4, 5, 6)}),
    Case("pixel_shuffle", lambda m, t: F.pixel_shuffle(t["x"], 4) * 2, IMAGE),
    Case("pixel_unshuffle", lambda m, t: F.pixel_unshuffle(t["x"], 2), IMAGE),
)  # fmt: skip
