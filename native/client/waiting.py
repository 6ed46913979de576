"""Waiting for the runner's answer to a call: progress, interruptions, and a process that says nothing any more."""

from __future__ import annotations

import queue
from collections.abc import Callable
from time import monotonic
from typing import Any

from .process import Call, ProcessDied, RunnerProcess

_POLL = 0.05  # seconds between looks at `cancelled`


def final_reply(
    process: RunnerProcess,
    call: Call,
    patience: float,
    cancelled: Callable[[], bool] | None,
    progress: Callable[..., None] | None,
) -> dict[str, Any]:
    """The last reply to a call, that it was aborted also where it was done all the same.

    Raises ProcessDied also after `patience` seconds without progress, and what `cancelled` and `progress` do.
    """
    aborting = False
    looked = heard = monotonic()
    while True:
        try:
            reply = call.replies.get(timeout=_POLL)
        except queue.Empty:
            reply = {}
        now = monotonic()
        if reply is None:
            raise ProcessDied(process.obituary())
        if "progress" in reply:
            heard = now
            if progress:
                progress(*reply["progress"])
        elif reply:
            if aborting and "done" in reply:  # before it saw the abort
                aborted = {"kind": "aborted", "message": "the run was interrupted"}
                return {"error": aborted, "peaks": reply.get("peaks", {})}
            return reply
        if now - heard > patience:
            process.kill()
            raise ProcessDied(f"no sign of progress for {patience:g} seconds; {process.obituary()}")
        if cancelled and not aborting and now - looked >= _POLL:
            looked = now
            if cancelled():
                process.abort(call)
                aborting = True
