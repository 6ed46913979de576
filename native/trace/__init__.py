"""From a torch module to the list of aten operations it performs, with no weights in memory."""

from .graph import Step, Trace, Window
from .record import trace

__all__ = ["Step", "Trace", "Window", "trace"]
