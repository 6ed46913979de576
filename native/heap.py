"""The return of freed memory to the system, and work without garbage collection."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def trim_heap() -> None:
    """Give the system what was freed: glibc keeps blocks below 32 MiB for itself once it has seen a larger one freed.

    Source: mallopt(3), M_MMAP_THRESHOLD. Elsewhere nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)


@contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection: tracing makes so many small objects that it takes a fifth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
