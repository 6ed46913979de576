"""What can go wrong with a language model, as the person at the node reads it."""

from __future__ import annotations


class LanguageModelError(RuntimeError):
    """The model could not be started, or gave no usable answer."""


class ConnectionLost(LanguageModelError):
    """The server is not there, or went in the middle of its answer."""
