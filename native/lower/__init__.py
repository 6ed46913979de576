"""Lowers a trace to a program of ggml operations: one handler per aten operation, views as strides."""

from ..program.builder import LowerError
from . import handlers
from .host import Lowered
from .lowering import Branch, LowerOptions, WeightType
from .walk import HandlerBug, lower

__all__ = ["Branch", "HandlerBug", "LowerError", "LowerOptions", "Lowered", "WeightType", "handlers", "lower"]
