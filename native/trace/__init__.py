"""Traces a torch module: the list of aten operations that it performs, with no weights in memory."""

from .graph import Question, Trace, TracedOp, Window
from .module_part import OfPart, fakes_of, weights_in
from .one_step import as_one_step, is_asked_for_shapes
from .questions import TraceError, hold
from .record import trace

__all__ = [
    "OfPart", "Question", "Trace", "TraceError", "TracedOp", "Window", "as_one_step", "fakes_of", "hold",
    "is_asked_for_shapes", "trace", "weights_in",
]  # fmt: skip
