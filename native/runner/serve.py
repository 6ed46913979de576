"""The runner's loop: one thread reads, the main thread works, a third answers what may not wait for work."""

from __future__ import annotations

import os
import queue
import sys
import threading
from typing import BinaryIO

from ..wire.frames import FrameWriter, Header, PeerGone, ProtocolError, receive
from ..wire.shared_memory import ArenaView
from .device.devices import Limits
from .service import Service

Requests = queue.SimpleQueue[tuple[Header, bytes]]


def serve(incoming: BinaryIO, outgoing: BinaryIO, arena: str, limits: Limits) -> None:
    """Answer requests until `incoming` ends, which ends the process."""
    service = Service(FrameWriter(outgoing), ArenaView(arena), limits)
    work, queries = Requests(), Requests()
    threading.Thread(target=_read, args=(incoming, service, work, queries), daemon=True).start()
    threading.Thread(target=_answer, args=(service, queries), daemon=True).start()
    _answer(service, work)


def _read(incoming: BinaryIO, service: Service, work: Requests, queries: Requests) -> None:
    try:
        while True:
            header, payload = receive(incoming)
            if header["do"] == "interrupt":
                service.interrupt(header["request"])
            else:
                (queries if header["do"] in Service.QUERIES else work).put((header, payload))
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
