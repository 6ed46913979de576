"""Functions whose programs may be kept between sessions, and the entries of a store that these are."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from ..heap import uncollected
from ..trace import OfPart, hold
from .codec import Unstorable, decoded, encoded
from .store import Store

log = logging.getLogger(__name__)
FORMAT = 2
Value = TypeVar("Value")


class Steering(Protocol):
    """All that a trace of a function hangs on besides the call's inputs, the weights and the options of lowering."""

    def before(self) -> str | None:
        """The part of it that is known before there is a trace; None: not certain, so that nothing is kept."""

    def watched(self, function: Callable[..., Any], *args: Any) -> Any:
        """The result of the function, with the code that runs in it noted where this makes a trace."""

    def after(self) -> Any:
        """The rest, once it was watched, with what tracing has left besides the trace; None: that is not certain."""

    def recall(self, after: Any) -> bool:
        """Whether the rest is now as `after` told; puts what tracing had left in its place again."""


@dataclass(frozen=True, eq=False)
class Storable(OfPart):
    """A function whose programs may be kept, as all that its trace hangs on can be told."""

    store: Store
    steering: Steering

    def __call__(self, module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
        """As the function."""
        return self.steering.watched(self.function, module, inputs)


@dataclass(frozen=True, eq=False)
class Entry:
    """One value in a store, with the rest that its trace hung on."""

    function: Storable
    key: str

    def get(self, inputs: Mapping[str, torch.Tensor]) -> Any:
        """The value, where there is one whose trace would be the same now; else None."""
        content = self.function.store.get(self.key)
        if content is None:
            return None
        try:
            with uncollected():
                value, after = decoded(content)
            return value if hold(value.questions, inputs) and self.function.steering.recall(after) else None
        except Exception as error:  # a file of a disk, of which nothing is certain
            log.debug("an entry that was kept cannot be used: %s", error)
            self.function.store.remove(self.key)
            return None

    def put(self, value: Any) -> None:
        """Keep the value, unless there is something in it that cannot be, or its trace hung on what cannot be told."""
        after = self.function.steering.after()
        if after is None:
            return
        try:
            self.function.store.put(self.key, encoded((value, after), self.function.store.largest))
        except Unstorable as error:
            log.debug("a program is not kept for the next session: %s", error)


def entry_of(function: Storable, parts: Sequence[Any]) -> Entry | None:
    """The entry of what is made of a function; parts: all else that it hangs on, as JSON. None: it is not kept."""
    before = function.steering.before()
    return None if before is None else Entry(function, json.dumps([FORMAT, before, *parts]))


def kept_or_made(entry: Entry | None, inputs: Mapping[str, torch.Tensor], make: Callable[[], Value]) -> Value:
    """The value of an entry; where there is none, what `make` returns, which is kept then."""
    if entry is None:
        return make()
    known: Value | None = entry.get(inputs)
    if known is None:
        known = make()
        entry.put(known)
    return known
