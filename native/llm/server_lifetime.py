"""The lifetime of the one local language model in memory: started on use, unloaded for other models."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..errors import Interrupted, IsInterrupted
from .exchange import Endpoint
from .model import ConnectionLost, LanguageModelError, LocalModel
from .server_process import ServerProcess

Result = TypeVar("Result")
_POLL = 0.05  # seconds between calls of `interrupted`
_in_use = threading.Lock()
_server: ServerProcess | None = None


def with_server(model: LocalModel, function: Callable[[Endpoint], Result], interrupted: IsInterrupted) -> Result:
    """Calls `function` with the endpoint of the model's server, which is started first where it is not running.

    Another model's server is ended. When the server dies during the call, `function` is called again with a new one.
    Raises LanguageModelError, Interrupted, and whatever `function` raises.
    """
    with _exclusive(interrupted):
        try:
            return function(_started(model, interrupted).endpoint)
        except ConnectionLost:
            if _server is None or not _server.died():
                raise
        try:
            return function(_started(model, interrupted).endpoint)
        except ConnectionLost as error:
            if _server is None or not _server.died():
                raise
            raise LanguageModelError(
                f"llama.cpp ended twice over the same request: {_server.exit_report()}\n"
                f"Choose the device CPU, fewer layers, a shorter context or another file than {model.name}."
            ) from error


def running() -> ServerProcess | None:
    """The server process that runs now; None where none does."""
    return _server if _server and _server.alive else None


def unload_if_idle() -> None:
    """Ends the server unless it is answering or its model is `kept` in memory; called before another model computes."""
    if _server is not None and not _server.model.kept and _in_use.acquire(blocking=False):
        try:
            _stop()
        finally:
            _in_use.release()


def unload(model: LocalModel | None = None) -> None:
    """Ends this model's server, or whichever runs, as soon as it has answered."""
    with _in_use:
        if model is None or (_server is not None and _server.model == model):
            _stop()


@contextmanager
def _exclusive(interrupted: IsInterrupted) -> Iterator[None]:
    while not _in_use.acquire(timeout=_POLL):
        if interrupted():
            raise Interrupted("waiting for the language model was interrupted")
    try:
        yield
    finally:
        _in_use.release()


def _started(model: LocalModel, interrupted: IsInterrupted) -> ServerProcess:
    global _server
    if _server is None or _server.model != model or not _server.alive:
        _stop()
        _server = ServerProcess(model, interrupted)
    return _server


def _stop() -> None:
    global _server
    server, _server = _server, None
    if server is not None:
        server.close()


atexit.register(_stop)
