"""Tensors of a trace whose values follow from constants alone, and work that is no part of the trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


@dataclass
class _Trace:
    """The trace that is being made, and whether `untraced` was called in it."""

    constant: Callable[[torch.Tensor], Any]
    on_input: Callable[[torch.Tensor], bool]
    left: bool = False


_current: ContextVar[_Trace | None] = ContextVar("trace", default=None)


@contextmanager
def knowing(
    constant: Callable[[torch.Tensor], Any], on_input: Callable[[torch.Tensor], bool]
) -> Iterator[None]:  # fmt: skip
    """Within it the functions below ask these of the trace that is being made."""
    before = _current.set(_Trace(constant, on_input))
    try:
        yield
    finally:
        _current.reset(before)


def known_value(x: torch.Tensor) -> torch.Tensor | None:
    """The values of a tensor of the trace that is being made; None where they hang on an input or a weight."""
    current = _current.get()
    return None if current is None else current.constant(x)


def hangs_on_input(x: torch.Tensor) -> bool:
    """Whether a tensor of the trace that is being made may be another at the next call."""
    current = _current.get()
    return current is None or current.on_input(x)


def untraced(function: Callable[[], Result]) -> Result:
    """Call a function while a trace is made, of which it is no part.

    In a thread of its own, as the modes that make the trace are of a thread.
    """
    current = _current.get()
    if current is not None:
        current.left = True
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(copy_context().run, _without_gradients, function).result()


def has_left_trace() -> bool:
    """Whether `untraced` was called in the trace that is being made."""
    current = _current.get()
    return current is not None and current.left


def _without_gradients(function: Callable[[], Result]) -> Result:
    with torch.no_grad():
        return function()
