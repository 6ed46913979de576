"""One handler for each aten operation, in files by subject; importing the package registers them all."""

from . import (
    attention,
    convolution,
    data_movement,
    elementwise,
    linear_algebra,
    matmul,
    norms,
    padding,
    patches,
    resampling,
    rope,
    sampling,
)

__all__ = [
    "attention",
    "convolution",
    "data_movement",
    "elementwise",
    "linear_algebra",
    "matmul",
    "norms",
    "padding",
    "patches",
    "resampling",
    "rope",
    "sampling",
]
