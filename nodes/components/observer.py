"""Who looks on while models work. The planner does, which stands above them and cannot be imported from here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...native.client import OutOfMemory


@dataclass(frozen=True)
class Observer:
    """took: called with the most bytes held on each device during a load or run, and the digest of the weights that it
    was of; lacked: for the text of an error.
    """

    on_peak: Callable[[Mapping[str, int], str], None]
    explain_oom: Callable[[OutOfMemory], str]


_watcher: Observer | None = None


def watch(observer: Observer) -> None:
    """From now on this one looks on."""
    global _watcher
    _watcher = observer


def on_peak(peaks: Mapping[str, int], weights: str) -> None:
    """A model has been loaded or run."""
    if _watcher and peaks:
        _watcher.on_peak(peaks, weights)


def explain_oom(error: OutOfMemory) -> str:
    """What to say where memory ran out all the same."""
    return _watcher.explain_oom(error) if _watcher else str(error)
