"""A child process: started from the pack's folder, ended with this one, the end of its stderr kept for messages."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from .job_object import end_with_us

log = logging.getLogger(__name__)
PACK = Path(__file__).resolve().parents[2]
# Not `-m`: the Python that ComfyUI's portable build brings ignores PYTHONPATH.
# And without the current folder, where ComfyUI has modules of its own.
_START = (
    "import sys; sys.path[:] = [sys.argv.pop(1), *filter(None, sys.path)]; from native.{}.__main__ import main; main()"
)
_STDERR_LINES = 60
_ENVIRONMENT = {
    "GGML_NO_BACKTRACE": "1",  # an abort would start a debugger on itself, for seconds
    "OPENBLAS_NUM_THREADS": "1",  # numpy only moves bytes there; its threads would cost memory
    "PYTHONUNBUFFERED": "1",
}


class Child:
    """Runs native/`name`/__main__.py; raises OSError where it cannot be started.

    read: follows its stdout, in a thread of its own, until that ends or means nothing.
    ended: called after the process has.
    on_line: called with every line of its stderr.
    inherited: file descriptors that it gets (not on Windows).
    """

    def __init__(
        self,
        name: str,
        options: Sequence[str],
        environment: Mapping[str, str],
        read: Callable[[IO[bytes]], None],
        ended: Callable[[], None],
        on_line: Callable[[str], None] = lambda _: None,
        inherited: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.ended = threading.Event()
        self._command = [sys.executable, "-c", _START.format(name), str(PACK), "--parent", str(os.getpid()), *options]
        self._environment = {**os.environ, **_ENVIRONMENT, **environment}
        self._read, self._on_end, self._on_line = read, ended, on_line
        self._inherited = inherited
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._failure: OSError | None = None
        started = threading.Event()
        # Linux ends the child with the thread that started it, so that thread is the one that reads until its end.
        threading.Thread(target=self._live, args=(started,), name=f"native {name}", daemon=True).start()
        started.wait()
        if self._failure:
            raise self._failure

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        """Where it reads; at the end of it the child ends."""
        assert self._process.stdin is not None
        return self._process.stdin

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self.ended.wait(10)

    def close(self) -> None:
        """End it as it does at the end of its stdin, or else at once."""
        with suppress(OSError):
            self.stdin.close()
        if not self.ended.wait(2):
            self.kill()

    def last_output(self) -> list[str]:
        """The last lines of its stderr."""
        return list(self._stderr)

    def exit_report(self) -> str:
        """How it ended and the last it wrote to stderr."""
        code = self._process.poll()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        tail = "".join(self._stderr).strip()
        return f"the {self.name} process {self.pid} ended ({how})" + (f". Its last output:\n{tail}" if tail else "")

    def _live(self, started: threading.Event) -> None:
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment,
                pass_fds=self._inherited,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            self._failure = error
            self.ended.set()
            started.set()
            return
        self._job = end_with_us(self._process)
        errors = threading.Thread(target=self._keep_stderr, name=f"native {self.name} stderr", daemon=True)
        errors.start()
        started.set()
        assert self._process.stdout
        with self._process.stdout as output:
            try:
                self._read(output)
            except Exception as error:
                self._stderr.append(f"{error}\n")
                self._process.kill()
            self._process.wait()
        errors.join(2)
        self.ended.set()
        self._on_end()

    def _keep_stderr(self) -> None:
        assert self._process.stderr
        with self._process.stderr as lines:
            for line in lines:
                text = line.decode(errors="replace")
                self._stderr.append(text)
                log.debug("%s: %s", self.name, text.rstrip())
                self._on_line(text)
