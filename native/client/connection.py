"""One run of the runner process: its pipes, its shared memory, its replies and its end."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import IO, Any

from ..process.child import Child
from ..wire.frames import FrameWriter, Header, PeerGone, receive
from ..wire.shared_memory import Arena


class ProcessDied(Exception):
    """The runner's process ended before it answered; the message ends with what it wrote to stderr."""


class Call:
    """A request on its way: its replies arrive in a queue, None when the process has ended."""

    def __init__(self, request: int) -> None:
        self.request = request
        self.replies: queue.SimpleQueue[Header | None] = queue.SimpleQueue()


class RunnerProcess:
    """Started on construction; raises ProcessDied from `send` once it has ended."""

    def __init__(self, options: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self.arena = Arena()
        self.loading_drivers = False  # whether it was, or was when it died
        self.closed = False  # ended because we wanted it
        self._calls: dict[int, Call] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        inherited = () if self.arena.descriptor is None else (self.arena.descriptor,)
        arguments = ["--arena", self.arena.name, *options]
        try:
            self._child = Child("runner", arguments, environment or {}, self._read, self._ended, inherited=inherited)
        except OSError as error:
            raise ProcessDied(f"the runner could not be started: {error}") from error
        self._writer = FrameWriter(self._child.stdin)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""
        return not self._child.ended.is_set()

    def send(self, header: Header, payload: bytes = b"") -> Call:
        """Send a request; its id is added here. Raises ProcessDied."""
        call = Call(next(self._numbers))
        with self._lock:
            if self._child.ended.is_set():
                raise ProcessDied(self.exit_report())
            self._calls[call.request] = call
        try:
            self._writer.send({"id": call.request, **header}, payload)
        except PeerGone as error:
            self._child.ended.wait(5)
            raise ProcessDied(self.exit_report()) from error
        return call

    def interrupt(self, call: Call) -> None:
        """Ask it to end a request; the request is answered either way."""
        with suppress(PeerGone):  # then the end of the process answers the call
            self._writer.send({"do": "interrupt", "request": call.request})

    def kill(self) -> None:
        """End it at once."""
        self._child.kill()

    def close(self) -> None:
        """End it, as it does at the end of its stdin, and give the shared memory back."""
        self.closed = True
        self._child.close()
        self.arena.close()

    def exit_report(self) -> str:
        """How it ended and the last it wrote to stderr."""
        return self._child.exit_report()

    def _read(self, output: IO[bytes]) -> None:
        with suppress(EOFError):
            while True:
                self._take(receive(output)[0])

    def _ended(self) -> None:
        with self._lock:
            calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.replies.put(None)

    def _take(self, header: dict[str, Any]) -> None:
        if header.get("event") == "drivers":
            self.loading_drivers = header["loading"]
            return
        final = "progress" not in header
        with self._lock:
            call = self._calls.pop(header["id"], None) if final else self._calls.get(header["id"])
        if call:
            call.replies.put(header)


_POLL = 0.05  # seconds between looks at `interrupted`


def final_reply(
    process: RunnerProcess,
    call: Call,
    patience: float,
    interrupted: Callable[[], bool] | None,
    progress: Callable[..., None] | None,
) -> dict[str, Any]:
    """The last reply to a call, that it was aborted also where it was done all the same.

    Raises ProcessDied also after `patience` seconds without progress, and what `interrupted` and `progress` do.
    """
    interrupting = False
    looked = heard = monotonic()
    while True:
        try:
            reply = call.replies.get(timeout=_POLL)
        except queue.Empty:
            reply = {}
        now = monotonic()
        if reply is None:
            raise ProcessDied(process.exit_report())
        if "progress" in reply:
            heard = now
            if progress:
                progress(*reply["progress"])
        elif reply:
            if interrupting and "done" in reply:  # before it saw the abort
                outcome = {"kind": "interrupted", "message": "the run was interrupted"}
                return {"error": outcome, "peaks": reply.get("peaks", {})}
            return reply
        if now - heard > patience:
            process.kill()
            raise ProcessDied(f"no sign of progress for {patience:g} seconds; {process.exit_report()}")
        if interrupted and not interrupting and now - looked >= _POLL:
            looked = now
            if interrupted():
                process.interrupt(call)
                interrupting = True
