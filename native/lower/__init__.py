"""Lowers a trace to a program of ggml operations: one handler per aten operation, views as strides."""

from ..program.builder import LowerError
from . import handlers
from .host import Lowered
from .lowering import LowerOptions, WeightType
from .walk import HandlerBug, lower

__all__ = ["HandlerBug", "LowerError", "LowerOptions", "Lowered", "WeightType", "handlers", "lower"]
