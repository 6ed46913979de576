"""Functions whose programs may be kept between sessions, and the entries of a store that these are."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ..heap import uncollected
from ..trace import OfPart, hold
from .codec import Unstorable, decoded, encoded
from .store import Store

log = logging.getLogger(__name__)
FORMAT = 1
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class Storable(OfPart):
    """A function whose programs may be kept, as all that its trace hangs on can be told.

    described: that, apart from the call's inputs, the weights and the options of lowering; None where it is not certain
    now. noted: what tracing has left besides the trace, and recall: puts that in its place again.
    """

    store: Store
    described: Callable[[], str | None]
    noted: Callable[[], Any] = lambda: None
    recall: Callable[[Any], None] = lambda _: None


@dataclass(frozen=True, eq=False)
class Entry:
    """One value in a store, with what tracing has left besides it."""

    function: Storable
    key: str

    def get(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        """The value, where there is one for inputs that answer what its trace asked as before; else None."""
        content = self.function.store.get(self.key)
        if content is None:
            return None
        try:
            with uncollected():
                value, noted = decoded(content)
            if not hold(value.questions, inputs):
                return None
            self.function.recall(noted)
            return value
        except Exception as error:  # a file of a disk, of which nothing is certain
            log.debug("an entry that was kept cannot be used: %s", error)
            self.function.store.remove(self.key)
            return None

    def put(self, value: Any) -> None:
        """Keep the value, unless there is something in it that cannot be."""
        try:
            self.function.store.put(self.key, encoded((value, self.function.noted()), self.function.store.largest))
        except Unstorable as error:
            log.debug("a program is not kept for the next session: %s", error)


def entry_of(function: Any, parts: Sequence[Any]) -> Entry | None:
    """The entry of what is made of a function; parts: all else that it hangs on, as JSON. None: it is not kept."""
    described = function.described() if isinstance(function, Storable) else None
    return None if described is None else Entry(function, json.dumps([FORMAT, described, *parts]))


def kept_or_made(entry: Entry | None, inputs: Mapping[str, torch.Tensor], make: Callable[[], Value]) -> Value:
    """The value of an entry; where there is none, what `make` returns, which is kept then."""
    if entry is None:
        return make()
    known: Value | None = entry.get(inputs)
    if known is None:
        known = make()
        entry.put(known)
    return known
