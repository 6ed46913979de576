"""Traces a torch module: the list of aten operations that it performs, with no weights in memory."""

from .graph import Question, Trace, TracedOp, Window
from .known import hangs_on_input, has_left_trace, known_value, untraced
from .module_part import OfPart, fakes_of, weights_in
from .one_step import as_one_step, is_asked_for_shapes
from .questions import TraceError, hold
from .record import trace

__all__ = [
    "OfPart", "Question", "Trace", "TraceError", "TracedOp", "Window", "as_one_step", "fakes_of", "hangs_on_input",
    "has_left_trace", "hold", "is_asked_for_shapes", "known_value", "trace", "untraced", "weights_in",
]  # fmt: skip
