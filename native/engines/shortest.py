"""The shortest time of what is done again and again: what else the machine does only makes it longer."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import perf_counter
from typing import Any, TypeVar

from ..errors import Interrupted

_LEAST, _MOST = 5, 40  # rounds
_QUIET = 4  # rounds in which nothing became shorter end it
_SHORTER = 0.97

Key = TypeVar("Key", bound=Hashable)


def shortest(measure: Callable[[], dict[Key, float]], interrupted: Callable[[], bool]) -> dict[Key, float]:
    """The shortest seconds of each part of a work, over rounds until none becomes shorter. Raises Interrupted."""
    best: dict[Key, float] = {}
    quiet = 0
    for number in range(_MOST):
        if interrupted():
            raise Interrupted("the measurement was interrupted")
        taken = measure()
        better = any(seconds < _SHORTER * best.get(key, float("inf")) for key, seconds in taken.items())
        best = {key: min(seconds, best.get(key, seconds)) for key, seconds in taken.items()}
        quiet = 0 if better else quiet + 1
        if number + 1 >= _LEAST and quiet >= _QUIET:
            break
    return best


def shortest_call(
    work: Callable[[], Any], interrupted: Callable[[], bool], clock: Callable[[], float] = perf_counter
) -> float:
    """The same of one work."""

    def once() -> dict[str, float]:
        began = clock()
        work()
        return {"": clock() - began}

    return shortest(once, interrupted)[""]
