"""One process of the runner, from its start to its end: pipes, shared memory, requests and replies."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import IO

from ..errors import IsInterrupted
from ..process.child import Child
from ..wire.failures import Failure, WasInterrupted
from ..wire.frames import FrameWriter, PeerGone, ProtocolError, receive
from ..wire.messages import DriversEvent, InterruptRequest, Progress, Reply, Request
from ..wire.shared_memory import Arena

_POLL = 0.05  # seconds between looks at `interrupted`
OnProgress = Callable[..., None]  # done, in all


class ProcessDied(Exception):
    """The runner's process ended before it answered; the message ends with what it wrote to stderr."""


class ProcessHung(ProcessDied):
    """It gave no sign of progress for too long, and was ended."""


class Call:
    """A request on its way: its replies arrive in a queue, or how the process ended."""

    def __init__(self, request: int) -> None:
        self.request = request
        self.replies: queue.SimpleQueue[Progress | Reply | ProcessDied] = queue.SimpleQueue()


class RunnerProcess:
    """A runner process, started on construction; raises OSError where it cannot be."""

    def __init__(self, options: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> None:
        self.arena = Arena()
        self.loading_drivers = False  # whether it was, or was when it died
        self.closed = False  # ended because we wanted it
        self._calls: dict[int, Call] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        inherited = () if self.arena.descriptor is None else (self.arena.descriptor,)
        arguments = ["--arena", self.arena.name, *options]
        self._child = Child("runner", arguments, environment or {}, self._read, self._ended, inherited=inherited)
        self._writer = FrameWriter(self._child.stdin)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""
        return not self._child.ended.is_set()

    def exchange(
        self,
        request: Request,
        payload: bytes,
        timeout: float,
        interrupted: IsInterrupted | None = None,
        progress: OnProgress | None = None,
    ) -> Reply:
        """Send a request and wait for its reply, which is WasInterrupted also where it was done all the same.

        Raises ProcessDied, also after `timeout` seconds without progress, and what `interrupted` and `progress` do.
        """
        call = Call(next(self._numbers))
        with self._lock:
            if self._child.ended.is_set():
                raise ProcessDied(self._child.exit_report())
            self._calls[call.request] = call
        watchdog = threading.Timer(timeout, self.kill)  # a process that reads nothing would block the writing
        watchdog.start()
        try:
            self._writer.send(call.request, request, payload)
        except PeerGone as error:
            self._child.ended.wait(5)
            raise ProcessDied(self._child.exit_report()) from error
        finally:
            watchdog.cancel()
        try:
            return self._reply(call, timeout, interrupted, progress)
        except ProcessDied:
            raise
        except BaseException:  # out of `interrupted` or `progress`: the runner must be idle before the next call
            self._interrupt(call)
            with suppress(ProcessDied):
                self._reply(call, timeout, None, None)
            raise

    def kill(self) -> None:
        """End it at once."""
        self._child.kill()

    def close(self, wanted: bool = True) -> None:
        """End it, as it does at the end of its stdin, and give the shared memory back.

        wanted: else it had ended by itself, which others who wait for its answers are to know.
        """
        self.closed |= wanted
        self._child.close()
        self.arena.close()

    def _interrupt(self, call: Call) -> None:
        with suppress(PeerGone):  # then the end of the process answers the call
            self._writer.send(0, InterruptRequest(call.request))

    def _reply(
        self, call: Call, timeout: float, interrupted: IsInterrupted | None, progress: OnProgress | None
    ) -> Reply:
        interrupting = False
        looked = last_sign = monotonic()
        while True:
            try:
                message = call.replies.get(timeout=_POLL)
            except queue.Empty:
                message = None
            match message:
                case ProcessDied():
                    raise message
                case Progress(done, total):
                    last_sign = monotonic()
                    if progress:
                        progress(done, total)
                case Reply(result) if interrupting and not isinstance(result, Failure):  # before it saw that
                    return replace(message, result=WasInterrupted("the run was interrupted"))
                case Reply():
                    return message
            now = monotonic()
            if now - last_sign > timeout:
                self.kill()
                raise ProcessHung(f"no sign of progress for {timeout:g} seconds; {self._child.exit_report()}")
            if interrupted and not interrupting and now - looked >= _POLL:
                looked = now
                if interrupted():
                    self._interrupt(call)
                    interrupting = True

    def _read(self, output: IO[bytes]) -> None:
        with suppress(EOFError):
            while True:
                number, message, _ = receive(output)
                if isinstance(message, DriversEvent):
                    self.loading_drivers = message.loading
                    continue
                if not isinstance(message, Progress | Reply):
                    raise ProtocolError(f"the runner sent a {type(message).__name__}, which only the client sends")
                with self._lock:
                    call = self._calls.pop(number, None) if isinstance(message, Reply) else self._calls.get(number)
                if call:
                    call.replies.put(message)

    def _ended(self) -> None:
        with self._lock:
            calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.replies.put(ProcessDied(self._child.exit_report()))
