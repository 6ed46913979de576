"""The return of freed memory to the system."""

from __future__ import annotations

import ctypes
import sys


def trim_heap() -> None:
    """Give the system what was freed: glibc keeps blocks below 32 MiB for itself once it has seen a larger one freed.

    Source: mallopt(3), M_MMAP_THRESHOLD. Elsewhere nothing.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim:
        trim(0)
