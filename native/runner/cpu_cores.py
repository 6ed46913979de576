"""The number of physical cores, each of which gets a thread of the CPU device."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def physical_cores() -> int:
    """Cores this process may run on, two hardware threads of one core counted once."""
    if sys.platform == "linux":
        allowed = os.sched_getaffinity(0)
        siblings = {_siblings(processor) for processor in allowed}
        return max(1, len(siblings))
    if sys.platform == "win32":
        return _windows_cores() or os.cpu_count() or 1
    return os.cpu_count() or 1


def _siblings(processor: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
    try:
        return path.read_text().strip()
    except OSError:
        return str(processor)


def _windows_cores() -> int:
    """Records of RelationProcessorCore from GetLogicalProcessorInformationEx; 0 when it does not answer."""
    import ctypes

    query = ctypes.WinDLL("kernel32").GetLogicalProcessorInformationEx  # type: ignore[attr-defined,unused-ignore]
    length = ctypes.c_ulong(0)
    query(0, None, ctypes.byref(length))
    data = ctypes.create_string_buffer(length.value)
    if not query(0, data, ctypes.byref(length)):
        return 0
    cores = position = 0
    while position < length.value:  # each record: relationship, its own size in bytes, ...
        position += int.from_bytes(data.raw[position + 4 : position + 8], "little")
        cores += 1
    return cores
