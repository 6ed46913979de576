"""Traces a torch module: the list of aten operations that it performs, with no weights in memory."""

from .graph import Trace, TracedOp, Window
from .record import trace

__all__ = ["Trace", "TracedOp", "Window", "trace"]
