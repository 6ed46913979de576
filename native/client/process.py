"""One run of the runner process: its pipes, its shared memory, its replies and its end."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..runner.protocol import FrameWriter, Header, PeerGone, ProtocolError, receive
from ..runner.shared_memory import Arena
from .job_object import end_with_us

log = logging.getLogger(__name__)

PACK = Path(__file__).resolve().parents[2]
# Not `-m`: the Python that ComfyUI's portable build brings ignores PYTHONPATH.
# And without the current folder, where ComfyUI has modules of its own.
_START = (
    "import sys; sys.path[:] = [sys.argv.pop(1), *filter(None, sys.path)]; "
    "from native.runner.__main__ import main; main()"
)
_STDERR_LINES = 60
_ENVIRONMENT = {
    "GGML_NO_BACKTRACE": "1",  # an abort would start a debugger on itself, for seconds
    "OPENBLAS_NUM_THREADS": "1",  # numpy only moves bytes here; its threads would cost memory
    "PYTHONUNBUFFERED": "1",
}


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
        self._options = options
        self._environment = dict(environment or {})
        self._calls: dict[int, Call] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._ended = threading.Event()
        started = threading.Event()
        self._failure: OSError | None = None
        # Linux ends the runner with the thread that started it, so that thread is the one that reads until its end.
        threading.Thread(target=self._live, args=(started,), name="native runner", daemon=True).start()
        started.wait()
        if self._failure:
            raise ProcessDied(f"the runner could not be started: {self._failure}") from self._failure

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""
        return not self._ended.is_set()

    def send(self, header: Header, payload: bytes = b"") -> Call:
        """Send a request; its id is added here. Raises ProcessDied."""
        call = Call(next(self._numbers))
        with self._lock:
            if self._ended.is_set():
                raise ProcessDied(self.obituary())
            self._calls[call.request] = call
        try:
            self._writer.send({"id": call.request, **header}, payload)
        except PeerGone as error:
            self._ended.wait(5)
            raise ProcessDied(self.obituary()) from error
        return call

    def abort(self, call: Call) -> None:
        """Ask it to end a request; the request is answered either way."""
        with suppress(PeerGone):  # then the end of the process answers the call
            self._writer.send({"do": "abort", "request": call.request})

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._ended.wait(10)

    def close(self) -> None:
        """End it, as it does at the end of its stdin, and give the shared memory back."""
        self.closed = True
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        if not self._ended.wait(2):
            self.kill()
        self.arena.close()

    def obituary(self) -> str:
        """How it ended and the last it wrote to stderr."""
        code = self._process.poll()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        tail = "".join(self._stderr).strip()
        return f"the runner process {self.pid} ended ({how})" + (f". The last it said:\n{tail}" if tail else "")

    def _live(self, started: threading.Event) -> None:
        try:
            self._process = self._start()
        except OSError as error:
            self._failure = error
            self._ended.set()
            started.set()
            return
        self._job = end_with_us(self._process)
        assert self._process.stdin
        assert self._process.stdout
        self._writer = FrameWriter(self._process.stdin)
        errors = threading.Thread(target=self._keep_stderr, name="native runner stderr", daemon=True)
        errors.start()
        started.set()
        try:
            while True:
                self._take(receive(self._process.stdout)[0])
        except EOFError:
            pass
        except ProtocolError as error:
            self._stderr.append(f"{error}\n")
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        errors.join(2)
        with self._lock:
            self._ended.set()
            calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.replies.put(None)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _START, str(PACK), "--parent", str(os.getpid()), "--arena", self.arena.name]
        inherited = () if self.arena.descriptor is None else (self.arena.descriptor,)
        return subprocess.Popen(
            [*command, *self._options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT, **self._environment},
            pass_fds=inherited,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )

    def _take(self, header: dict[str, Any]) -> None:
        if header.get("event") == "drivers":
            self.loading_drivers = header["loading"]
            return
        final = "progress" not in header
        with self._lock:
            call = self._calls.pop(header["id"], None) if final else self._calls.get(header["id"])
        if call:
            call.replies.put(header)

    def _keep_stderr(self) -> None:
        assert self._process.stderr
        with self._process.stderr as lines:
            for line in lines:
                text = line.decode(errors="replace")
                self._stderr.append(text)
                log.debug("runner: %s", text.rstrip())
