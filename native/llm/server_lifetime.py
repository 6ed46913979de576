"""The one local language model that is in memory: who uses it, and when it gives its memory back."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..errors import Interrupted, IsInterrupted
from .chat import Endpoint
from .errors import ConnectionLost, LanguageModelError
from .model import LocalModel
from .server_process import ServerProcess

Result = TypeVar("Result")
_POLL = 0.05  # seconds between looks at `interrupted`
_using = threading.Lock()
_engine: ServerProcess | None = None


def with_model(model: LocalModel, use: Callable[[Endpoint], Result], interrupted: IsInterrupted) -> Result:
    """What `use` makes of the model's server, which is started where it is not there; another model's is ended.

    When the server dies meanwhile, `use` is called once more with a new one.
    Raises LanguageModelError, Interrupted, and what `use` does.
    """
    with _turn(interrupted):
        try:
            return use(_living(model, interrupted).endpoint)
        except ConnectionLost:
            if _engine is None or not _engine.died():
                raise
        try:
            return use(_living(model, interrupted).endpoint)
        except ConnectionLost as error:
            if _engine is None or not _engine.died():
                raise
            raise LanguageModelError(
                f"llama.cpp ended twice over the same request: {_engine.exit_report()}\n"
                f"Choose the device CPU, fewer layers, a shorter context or another file than {model.name}."
            ) from error


def running() -> ServerProcess | None:
    """The model's process that is there, if any."""
    return _engine if _engine and _engine.alive else None


def unload_if_idle() -> None:
    """Give the memory back where the model need not stay while others compute; not while it answers."""
    if _engine is not None and not _engine.model.kept and _using.acquire(blocking=False):
        try:
            _end()
        finally:
            _using.release()


def unload(model: LocalModel | None = None) -> None:
    """Give the memory of this model back, or of whichever is there, as soon as it has answered."""
    with _using:
        if model is None or (_engine is not None and _engine.model == model):
            _end()


@contextmanager
def _turn(interrupted: IsInterrupted) -> Iterator[None]:
    while not _using.acquire(timeout=_POLL):
        if interrupted():
            raise Interrupted("waiting for the language model was interrupted")
    try:
        yield
    finally:
        _using.release()


def _living(model: LocalModel, interrupted: IsInterrupted) -> ServerProcess:
    global _engine
    if _engine is None or _engine.model != model or not _engine.alive:
        _end()
        _engine = ServerProcess(model, interrupted)
    return _engine


def _end() -> None:
    global _engine
    engine, _engine = _engine, None
    if engine is not None:
        engine.close()


atexit.register(_end)
