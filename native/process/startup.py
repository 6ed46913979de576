"""How a child process of this pack starts: it ends with its parent, and keeps its pipes for messages alone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import BinaryIO

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int) -> None:
    """Ask the system to end this process when process `parent` does (Linux; Windows: the job object of the parent).

    The reader of stdin ends it as well, at end of file; this one works even where nothing runs Python any more.
    Linux signals when the *thread* that started us ends: Child starts us from the thread that reads our answers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for ComfyUI, which then closes the pipe
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """stdin and stdout as binary streams; after it file descriptor 0 is empty and 1 is stderr."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return incoming, outgoing
