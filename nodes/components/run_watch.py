"""Notes which code runs in a thread: by sys.monitoring, and before Python 3.12 by a trace function."""

from __future__ import annotations

import os
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_ENVIRONMENTS_OWN = ("os", "_collections_abc", "collections.abc")  # code between it and what reads it
_READ_ENVIRONMENT = os._Environ.__getitem__.__code__
_TOOL = 4  # of sys.monitoring's six; those of debuggers, coverage and profilers are others


@dataclass
class Run:
    """Code that ran, by id, with the names of its module; and of what read the environment."""

    codes: dict[int, tuple[types.CodeType, dict[str, Any]]] = field(default_factory=dict)
    readers: list[dict[str, Any]] = field(default_factory=list)

    def add(self, frame: types.FrameType) -> None:
        """Note the code of a frame that begins."""
        code = frame.f_code
        if id(code) not in self.codes:
            self.codes[id(code)] = code, frame.f_globals
        if code is _READ_ENVIRONMENT:
            reader: types.FrameType | None = frame
            while reader and reader.f_globals.get("__name__") in _ENVIRONMENTS_OWN:
                reader = reader.f_back
            self.readers.append(reader.f_globals if reader else {})


def is_cheap() -> bool:
    """Whether code is noted once, when it first runs, so that noting takes next to no time."""
    return sys.version_info >= (3, 12)


def is_watched() -> bool:
    """Whether something else, such as a debugger, watches the code that runs, or it is noted already."""
    if sys.version_info >= (3, 12) and sys.monitoring.get_tool(_TOOL) is not None:
        return True
    return sys.gettrace() is not None


@contextmanager
def noted(run: Run) -> Iterator[bool]:
    """Within it the code that runs in this thread is noted; False where another thread has begun that just before."""
    if sys.version_info >= (3, 12):
        with _monitored(run) as is_noted:
            yield is_noted
    else:
        with _traced(run):
            yield True


@contextmanager
def _traced(run: Run) -> Iterator[None]:
    def note(frame: types.FrameType, _event: str, _arg: Any) -> None:
        run.add(frame)

    sys.settrace(note)
    try:
        yield
    finally:
        sys.settrace(None)


if sys.version_info >= (3, 12):

    @contextmanager
    def _monitored(run: Run) -> Iterator[bool]:
        """Events come from all threads; those of code that this one has noted are switched off."""
        events, thread = sys.monitoring, threading.get_ident()

        def note(code: types.CodeType, _offset: int) -> Any:
            if threading.get_ident() != thread:
                return None
            run.add(sys._getframe(1))
            return None if code is _READ_ENVIRONMENT else events.DISABLE

        try:
            events.use_tool_id(_TOOL, __name__)
        except ValueError:
            yield False
            return
        try:
            events.restart_events()  # those that were switched off before
            for event in (events.events.PY_START, events.events.PY_RESUME):
                events.register_callback(_TOOL, event, note)
            events.set_events(_TOOL, events.events.PY_START | events.events.PY_RESUME)
            yield True
        finally:
            events.set_events(_TOOL, events.events.NO_EVENTS)
            for event in (events.events.PY_START, events.events.PY_RESUME):
                events.register_callback(_TOOL, event, None)
            events.free_tool_id(_TOOL)
