"""llama.cpp's server with one model, in a child process: its start, its address and its end."""

from __future__ import annotations

import json
import queue
import re
import secrets
import sys
import time
from typing import IO, Any

from ..errors import Interrupted, IsInterrupted
from ..placement import CPU
from .chat import Endpoint
from .errors import LanguageModelError
from .model import LocalModel
from .start import GPU_INDEX, PACKAGE, VERSION, start_child, task_of

_START_LIMIT = 600.0  # seconds: a large file may come from a slow disk
_PATIENCE = 600.0  # seconds without a word: a long text is read before the first one is written
_POLL = 0.05  # seconds between looks at `interrupted`
# "0.00.006.489 E llama_model_load: error loading model: ..."
_ERROR_LINE = re.compile(r"^[\d.]+ E [^:]*: (.*)$")
_BEFORE_REASON = re.compile(r"^(error loading model|llama_model_loader): ")


class ServerProcess:
    """A child with the model, ready to answer at `endpoint`.

    Raises LanguageModelError with llama.cpp's own reason when it cannot be started, Interrupted.
    """

    def __init__(self, model: LocalModel, interrupted: IsInterrupted) -> None:
        self.model = model
        key = secrets.token_urlsafe(32)
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._child = start_child(task_of(model, key), self._read, lambda: self._answers.put({}))
        try:
            port = self._port(interrupted)
        except BaseException:
            self._child.kill()
            raise
        self.endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", model.name, key, _PATIENCE, takes_grammar=True)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether it can still answer."""
        return not self._child.ended.is_set()

    def died(self) -> bool:
        """Whether it has ended; one that is just ending is waited for."""
        return self._child.ended.wait(1)

    def exit_report(self) -> str:
        """How it ended and the last it wrote to stderr."""
        return self._child.exit_report()

    def close(self) -> None:
        """End the child, and with it all memory that it holds."""
        self._child.close()

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            self._answers.put(json.loads(line))

    def _port(self, interrupted: IsInterrupted) -> int:
        deadline = time.monotonic() + _START_LIMIT
        while True:
            try:
                answer = self._answers.get(timeout=_POLL)
                break
            except queue.Empty:
                if interrupted():
                    raise Interrupted("the start of the language model was interrupted") from None
                if time.monotonic() > deadline:
                    raise LanguageModelError(
                        f"llama.cpp did not load {self.model.path} within {_START_LIMIT:.0f} seconds. Put the file on "
                        "a faster disk, or choose a smaller one."
                    ) from None
        if "port" in answer:
            return int(answer["port"])
        self._child.ended.wait(2)
        raise LanguageModelError(self._failure(answer))

    def _failure(self, answer: dict[str, Any]) -> str:
        said = [found[1] for line in self._child.last_output() if (found := _ERROR_LINE.match(line.strip()))]
        if said:
            reason = _BEFORE_REASON.sub("", said[0]).rstrip(".")
            return f"llama.cpp could not load {self.model.path}: {reason}. Get it anew, or choose another."
        if answer and self.model.device != CPU:
            return (
                f"llama.cpp cannot compute on {self.model.device}: {answer['error']}. Choose the device CPU, or "
                f'install its build for GPUs: "{sys.executable}" -m pip install --force-reinstall --no-deps '
                f"--index-url {GPU_INDEX} {PACKAGE}=={VERSION}"
            )
        return f"llama.cpp could not load {self.model.path}: {answer.get('error') or self._child.exit_report()}."
