"""A child ends with the process that started it, also in the middle of a computation."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int) -> None:
    """Ask the system to end this process when process `parent` does (Linux; Windows: our job object there).

    The reader of stdin ends it as well, at end of file; this one works even where nothing runs Python any more.
    Linux signals when the *thread* that started us ends: Child starts us from the thread that reads our answers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for ComfyUI, which then closes the pipe
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
