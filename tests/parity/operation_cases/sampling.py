"""Pictures read at places between their pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from .case import Case, Inputs

PLACES = {"x": (2, 32, 6, 8), "y": (2, 4, 5, 2)}


def _grid(padding: str, align_corners: bool) -> Callable[[Any, Inputs], Tensor]:
    """Places up to far beside the picture."""
    return lambda _, t: F.grid_sample(t["x"], t["y"], padding_mode=padding, align_corners=align_corners)


def _deformed(kernel: tuple[int, int], **how: Any) -> Callable[[Any, Inputs], Tensor]:
    def function(m: Any, t: Inputs) -> Tensor:
        count = kernel[0] * kernel[1]
        return deform_conv2d(t["x"], t["y"][:, : 2 * count], m.w, m.b, mask=t["y"][:, -count:].sigmoid(), **how)

    return function


CASES = (
    Case("grid_sample", _grid("zeros", False), PLACES),
    Case("grid_sample corners", _grid("zeros", True), PLACES),
    Case("grid_sample border", _grid("border", False), PLACES),
    Case("deform_conv2d", _deformed((3, 3), padding=1), {"x": (2, 32, 6, 8), "y": (2, 27, 6, 8)},
         {"w": (16, 32, 3, 3), "b": (16,)}),
    Case("deform_conv2d strided", _deformed((1, 3), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
         {"x": (2, 32, 6, 8), "y": (2, 9, 3, 8)}, {"w": (16, 32, 1, 3), "b": (16,)}),
    Case("deform_conv2d plain", lambda m, t: deform_conv2d(t["x"], t["y"], m.w),
         {"x": (2, 32, 6, 8), "y": (2, 8, 5, 7)}, {"w": (16, 32, 2, 2)}),
)  # fmt: skip
