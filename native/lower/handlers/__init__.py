"""One handler for each aten operation, in files by subject; importing the package registers them all."""

from . import (
    attention,
    comparison,
    convolution,
    data_movement,
    elementwise,
    matmul,
    norms,
    reductions,
    rope,
    rounding,
    selection,
)

__all__ = [
    "attention",
    "comparison",
    "convolution",
    "data_movement",
    "elementwise",
    "matmul",
    "norms",
    "reductions",
    "rope",
    "rounding",
    "selection",
]
