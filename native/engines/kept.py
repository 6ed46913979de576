"""Traces and programs that are kept for the next call, each for calls that answer what its trace asked as before."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Generic, Protocol, TypeVar

import torch

from ..lru import LRU
from ..trace import Question, hold

CAPACITY = 16  # traces and programs of a model; each holds its constants, some MiB for a large picture


class _Made(Protocol):
    @property
    def questions(self) -> tuple[Question, ...]: ...


Value = TypeVar("Value", bound=_Made)


class Kept(Generic[Value]):
    """Values by key and answers; what was used least recently goes."""

    def __init__(self, capacity: int = CAPACITY, size: Callable[[Value], int] = lambda _: 1) -> None:
        """capacity: in the unit of `size`, of a value."""
        self._values: LRU[Hashable, tuple[Value, ...]] = LRU(capacity, lambda values: sum(map(size, values)))

    def get(self, key: Hashable, inputs: Mapping[str, torch.Tensor]) -> Value | None:
        """The value that was made for this key and for inputs like these."""
        known = self._values.get(key) or ()
        return next((value for value in known if hold(value.questions, inputs)), None)

    def put(self, key: Hashable, value: Value) -> Value:
        """Keep what was made for a key and the inputs that its trace was made with."""
        others = (self._values.get(key) or ()) if value.questions else ()
        self._values.put(key, (value, *others)[:CAPACITY])
        return value
