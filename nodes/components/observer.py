"""Who looks on while models work. The planner does, which stands above them and cannot be imported from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...native.client import OutOfMemory


@dataclass(frozen=True)
class Watcher:
    """took: called with the most bytes held on each device during a load or run, and the digest of the weights that it
    was of; lacked: for the text of an error.
    """

    took: Callable[[Mapping[str, int], str], None]
    lacked: Callable[[OutOfMemory], str]


_watcher: Watcher | None = None


def watch(watcher: Watcher) -> None:
    """From now on this one looks on."""
    global _watcher
    _watcher = watcher


def took(peaks: Mapping[str, int], weights: str) -> None:
    """A model has been loaded or run."""
    if _watcher and peaks:
        _watcher.took(peaks, weights)


def lacked(error: OutOfMemory) -> str:
    """What to say where memory ran out all the same."""
    return _watcher.lacked(error) if _watcher else str(error)
