"""The runner's threads: one reads requests, the main thread works, a third answers what may not wait for work."""

from __future__ import annotations

import os
import queue
import sys
import threading
from typing import BinaryIO

from ..wire.frames import FrameWriter, PeerGone, ProtocolError, receive
from ..wire.messages import InterruptRequest, Query, Work
from ..wire.shared_memory import ArenaView
from .device.devices import Limits
from .service import Service

Requests = queue.SimpleQueue[tuple[int, Query | Work, bytes]]


def serve(incoming: BinaryIO, outgoing: BinaryIO, arena: str, limits: Limits) -> None:
    """Answer requests until `incoming` ends, which ends the process; so does what is no request."""
    service = Service(FrameWriter(outgoing), ArenaView(arena), limits)
    work, queries = Requests(), Requests()
    threading.Thread(target=_read, args=(incoming, service, work, queries), daemon=True).start()
    threading.Thread(target=_answer, args=(service, queries), daemon=True).start()
    _answer(service, work)


def _read(incoming: BinaryIO, service: Service, work: Requests, queries: Requests) -> None:
    try:
        while True:
            number, message, payload = receive(incoming)
            if isinstance(message, InterruptRequest):
                service.interrupt(message.request)
            elif isinstance(message, Query):
                queries.put((number, message, payload))
            elif isinstance(message, Work):
                work.put((number, message, payload))
            else:
                raise ProtocolError(f"the client sent a {type(message).__name__}, which only the runner sends")
    except EOFError:
        os._exit(0)  # also in the middle of a computation: the client is gone
    except ProtocolError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(3)


def _answer(service: Service, requests: Requests) -> None:
    try:
        while True:
            service.answer(*requests.get())
    except PeerGone:
        os._exit(0)
