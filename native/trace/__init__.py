"""Traces a torch module: the list of aten operations that it performs, with no weights in memory."""

from .graph import Question, Trace, TracedOp, Window
from .questions import TraceError, hold
from .record import trace

__all__ = ["Question", "Trace", "TraceError", "TracedOp", "Window", "hold", "trace"]
