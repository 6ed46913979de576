"""The runner's threads: one reads requests, the main thread works, a third answers what may not wait for work."""

from __future__ import annotations

import os
import queue
import sys
import threading
from typing import BinaryIO

from ..wire.frames import Frame, FrameWriter, PeerGone, ProtocolError, receive
from ..wire.messages import InterruptRequest, Query
from ..wire.shared_memory import ArenaView
from .device.devices import Limits
from .service import Service

Frames = queue.SimpleQueue[Frame]


def serve(incoming: BinaryIO, outgoing: BinaryIO, arena: str, limits: Limits) -> None:
    """Answer requests until `incoming` ends, which ends the process; so does what is no request."""
    service = Service(FrameWriter(outgoing), ArenaView(arena), limits)
    work, queries = Frames(), Frames()
    threading.Thread(target=_read, args=(incoming, service, work, queries), daemon=True).start()
    threading.Thread(target=_answer, args=(service, queries), daemon=True).start()
    _answer(service, work)


def _read(incoming: BinaryIO, service: Service, work: Frames, queries: Frames) -> None:
    try:
        while True:
            frame = receive(incoming)
            if isinstance(frame.message, InterruptRequest):
                service.interrupt(frame.message.request)
            else:
                (queries if isinstance(frame.message, Query) else work).put(frame)
    except EOFError:
        os._exit(0)  # also in the middle of a computation: the client is gone
    except ProtocolError as error:
        _end(error)


def _answer(service: Service, frames: Frames) -> None:
    try:
        while True:
            service.answer(frames.get())
    except PeerGone:
        os._exit(0)
    except ProtocolError as error:
        _end(error)


def _end(error: ProtocolError) -> None:
    print(error, file=sys.stderr, flush=True)
    os._exit(3)
