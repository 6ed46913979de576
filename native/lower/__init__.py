"""From a trace to a program: one handler per aten operation, views folded into strides."""

from . import attention, layers, moves, pointwise, rotary  # these register the handlers
from .lowering import Lowered, LowerError, LowerOptions, WeightType, lower

__all__ = [
    "LowerError",
    "LowerOptions",
    "Lowered",
    "WeightType",
    "attention",
    "layers",
    "lower",
    "moves",
    "pointwise",
    "rotary",
]
