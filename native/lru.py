"""A bounded cache that drops what was used least recently."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRU(Generic[Key, Value]):
    """Values by key, up to `capacity` of them; the last one put in always stays.

    size: of a value, in the unit of `capacity`; one unless said.
    """

    def __init__(self, capacity: int, size: Callable[[Value], int] = lambda _: 1) -> None:
        self._capacity = capacity
        self._size = size
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._kept: frozenset[Key] = frozenset()

    def keep(self, keys: Iterable[Key]) -> None:
        """Drop no values of these keys, over the capacity if need be, until others are named."""
        self._kept = frozenset(keys)

    def get(self, key: Key) -> Value | None:
        """The value of a key, which is now the one used last."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: Key, value: Value) -> Value:
        """Keep a value, and drop others until there is room for it."""
        self._values[key] = value
        self._values.move_to_end(key)
        droppable = [each for each in self._values if each != key and each not in self._kept]
        while droppable and sum(map(self._size, self._values.values())) > self._capacity:
            del self._values[droppable.pop(0)]
        return value

    def clear(self) -> None:
        """Drop all."""
        self._values.clear()
