"""Where a server that hangs, and the processes it started, hang."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import psutil

_HOOK = Path(__file__).with_name("stacks_of_children")


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="stacks"))


def environment() -> dict[str, str]:
    """Variables for a Python process that is to answer, as are its children; it measures no devices by itself."""
    paths = (str(_HOOK), os.environ.get("PYTHONPATH", ""))
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TEST_STACKS": str(_folder()),
        "GGML_IDLE_MEASUREMENT": "0",
        "GGML_PROGRAMS": os.environ.get("GGML_PROGRAMS", "0"),
    }


def of(process: int) -> str:
    """The stacks of all threads of a process and its children, as text; empty on Windows."""
    if sys.platform == "win32":
        return ""
    parts = []
    for each in (psutil.Process(process), *psutil.Process(process).children(recursive=True)):
        file = _folder() / f"{each.pid}.txt"
        if file.exists():
            os.kill(each.pid, signal.SIGUSR1)
            time.sleep(0.5)
            parts.append(f"{' '.join(each.cmdline())[-120:]}\n{file.read_text()}")
    return "\n".join(parts)
