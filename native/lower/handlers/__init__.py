"""One handler for each aten operation, in files by subject; importing the package registers them all."""

from . import (
    attention,
    comparison,
    convolution,
    data_movement,
    elementwise,
    linear_algebra,
    matmul,
    norms,
    padding,
    patches,
    reductions,
    resampling,
    rope,
    rounding,
    sampling,
    selection,
)

__all__ = [
    "attention",
    "comparison",
    "convolution",
    "data_movement",
    "elementwise",
    "linear_algebra",
    "matmul",
    "norms",
    "padding",
    "patches",
    "reductions",
    "resampling",
    "rope",
    "rounding",
    "sampling",
    "selection",
]
