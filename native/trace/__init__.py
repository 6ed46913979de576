"""Traces a torch module: the list of aten operations that it performs, with no weights in memory."""

from .graph import Question, Trace, TracedOp, Window
from .known import hangs_on_input, has_left_trace, known_value, untraced
from .module_part import OfPart
from .one_step import as_one_step
from .questions import TraceError, hold
from .record import trace

__all__ = [
    "OfPart",
    "Question",
    "Trace",
    "TraceError",
    "TracedOp",
    "Window",
    "as_one_step",
    "hangs_on_input",
    "has_left_trace",
    "hold",
    "known_value",
    "trace",
    "untraced",
]
