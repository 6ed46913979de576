"""From a trace to a program: one handler per aten operation, views folded into strides."""

from . import handlers
from .lowering import Lowered, LowerError, LowerOptions, WeightType, lower

__all__ = ["LowerError", "LowerOptions", "Lowered", "WeightType", "handlers", "lower"]
