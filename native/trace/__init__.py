"""From a torch module to the list of aten operations it performs, with no weights in memory."""

from .graph import Trace, TracedOp, Window
from .record import trace

__all__ = ["Trace", "TracedOp", "Window", "trace"]
