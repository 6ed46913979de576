"""llama.cpp's server with one model, in a child process: how it is started, its address and its end."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import re
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import IO, Any

from ..errors import Interrupted, IsInterrupted
from ..placement import CPU
from ..process.child import Child
from ..threads import wanted_threads
from .exchange import Endpoint
from .model import LanguageModelError, LocalModel
from .task import Task

PACKAGE, VERSION = "xllamacpp", "2026.10.11549"  # as requirements.txt pins it
GPU_INDEX = "https://xorbitsai.github.io/xllamacpp/whl/vulkan"
_VISIBLE_DEVICES = "GGML_VK_VISIBLE_DEVICES"
_START_LIMIT = 600.0  # seconds: a large file may come from a slow disk
_READ_TIMEOUT = 600.0  # seconds without data: a long prompt is read before the first token is written
_POLL = 0.05  # seconds between calls of `interrupted`
# "0.00.006.489 E llama_model_load: error loading model: ..."
_ERROR_LINE = re.compile(r"^[\d.]+ E [^:]*: (.*)$")
_ERROR_PREFIX = re.compile(r"^(error loading model|llama_model_loader|error): ")
_OF_PROJECTOR = re.compile(r"mmproj|\bclip\b|clip_|mtmd|vision|projector", re.IGNORECASE)


class ServerProcess:
    """A running child with a model, which answers at `endpoint`."""

    def __init__(self, model: LocalModel, interrupted: IsInterrupted) -> None:
        """Starts the child and waits until it serves.

        Raises LanguageModelError with llama.cpp's reason when it cannot be started, Interrupted.
        """
        self.model = model
        key = secrets.token_urlsafe(32)
        self._replies: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._child = start_child(task_of(model, key), self._read, lambda: self._replies.put({}))
        try:
            port = self._port(interrupted)
        except BaseException:
            self._child.kill()
            raise
        self.endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", model.name, key, _READ_TIMEOUT, takes_grammar=True)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return not self._child.ended.is_set()

    def died(self) -> bool:
        """Whether the process has ended; waits up to a second for one that is about to."""
        return self._child.ended.wait(1)

    def exit_report(self) -> str:
        """The exit code or signal of the process, and its last lines of stderr."""
        return self._child.exit_report()

    def close(self) -> None:
        """Ends the child, which frees all its memory."""
        self._child.close()

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            self._replies.put(json.loads(line))

    def _port(self, interrupted: IsInterrupted) -> int:
        deadline = time.monotonic() + _START_LIMIT
        while True:
            try:
                reply = self._replies.get(timeout=_POLL)
                break
            except queue.Empty:
                if interrupted():
                    raise Interrupted("the start of the language model was interrupted") from None
                if time.monotonic() > deadline:
                    raise LanguageModelError(
                        f"llama.cpp did not load {self.model.path} within {_START_LIMIT:.0f} seconds. Put the file on "
                        "a faster disk, or choose a smaller one."
                    ) from None
        if "port" in reply:
            return int(reply["port"])
        self._child.ended.wait(2)
        raise LanguageModelError(self._failure(reply))

    def _failure(self, reply: dict[str, Any]) -> str:
        errors = [match[1] for line in self._child.last_output() if (match := _ERROR_LINE.match(line.strip()))]
        if errors:
            reason = _ERROR_PREFIX.sub("", errors[0]).rstrip(".")
            if self.model.projector is not None and any(_OF_PROJECTOR.search(error) for error in errors):
                return (
                    f"llama.cpp could not load the projector {self.model.projector} for {self.model.name}: {reason}. "
                    "Choose the projector that belongs to this model, or none."
                )
            return f"llama.cpp could not load {self.model.path}: {reason}. Download it again, or choose another."
        if reply and self.model.device != CPU:
            return (
                f"llama.cpp cannot compute on {self.model.device}: {reply['error']}. Choose the device CPU, or "
                f'install its build for GPUs: "{sys.executable}" -m pip install --force-reinstall --no-deps '
                f"--index-url {GPU_INDEX} {PACKAGE}=={VERSION}"
            )
        return f"llama.cpp could not load {self.model.path}: {reply.get('error') or self._child.exit_report()}."


def start_child(
    task: Task,
    read: Callable[[IO[bytes]], None],
    on_exit: Callable[[], None],
    on_log: Callable[[str], None] = lambda _: None,
) -> Child:
    """Starts a child and sends it a task. Raises LanguageModelError.

    read: reads its stdout, in a thread. on_exit: called after it has ended. on_log: called with each line of stderr.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise LanguageModelError(
            f"Language models on this machine need the Python package {PACKAGE}, which is not installed. "
            f'Install it with: "{sys.executable}" -m pip install {PACKAGE}=={VERSION} (for a GPU add '
            f"--index-url {GPU_INDEX}), and start ComfyUI again. The node GGML Language Server needs no package."
        )
    device, environment = _device_in_child(task.device)
    try:
        child = Child("llm", (), environment, read, on_exit, on_log)
        child.stdin.write(json.dumps(asdict(replace(task, device=device))).encode() + b"\n")
        child.stdin.flush()
    except OSError as error:
        raise LanguageModelError(f"The process for the language model could not be started: {error}.") from error
    return child


def task_of(model: LocalModel, key: str, estimate_only: bool = False) -> Task:
    """The task of serving a model. Raises RunnerError when the user's number of threads is not a number."""
    threads = model.threads or wanted_threads() or 0
    return Task(
        model.path, key, model.device, model.layers, model.context, threads, model.projector,
        estimate_only=estimate_only,
    )  # fmt: skip


def _device_in_child(device: str) -> tuple[str, dict[str, str]]:
    """The name of a device in the child, and the environment variables that hide other GPUs from it where they can.

    The numbers of Vulkan devices index the user's list of visible devices; without such a list they are ggml's own,
    which are the same in the child.
    """
    if device == CPU:
        return device, {"GGML_DISABLE_VULKAN": "1"}  # no driver is loaded for nothing
    visible = [each for each in os.environ.get(_VISIBLE_DEVICES, "").split(",") if each]
    number = device.removeprefix("Vulkan")
    if number.isdecimal() and int(number) < len(visible):
        return "Vulkan0", {_VISIBLE_DEVICES: visible[int(number)]}
    return device, {}
