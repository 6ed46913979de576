"""Memory of this process in bytes."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def process_memory() -> tuple[int, int]:
    """Private and resident bytes of this process; mapped weights are resident as far as they were touched."""
    if sys.platform == "win32":
        return _windows_memory()
    private = resident = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            private = int(line.split()[1]) * 1024
        elif line.startswith("VmRSS:"):
            resident = int(line.split()[1]) * 1024
    return private, resident


def _windows_memory() -> tuple[int, int]:
    class Counters(ctypes.Structure):  # PROCESS_MEMORY_COUNTERS_EX
        _fields_ = [
            ("size", ctypes.c_ulong),
            ("page_faults", ctypes.c_ulong),
            ("peak_working_set", ctypes.c_size_t),
            ("working_set", ctypes.c_size_t),
            ("pools", ctypes.c_size_t * 6),  # paged and not, and the page file's use
            ("private", ctypes.c_size_t),
        ]

    kernel32 = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    query = kernel32.K32GetProcessMemoryInfo
    query.argtypes = [ctypes.c_void_p, ctypes.POINTER(Counters), ctypes.c_ulong]
    counters = Counters(size=ctypes.sizeof(Counters))
    if not query(kernel32.GetCurrentProcess(), ctypes.byref(counters), counters.size):
        return 0, 0
    return counters.private, counters.working_set
