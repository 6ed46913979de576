"""What the runner holds, and how it answers each request."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

import numpy as np

from ..errors import RequestError
from ..wire.frames import FrameWriter, Header, PeerGone
from ..wire.shared_memory import ArenaView
from .device.devices import Devices, Limits
from .dry_run import dry_run, estimate
from .graph.execute import execute
from .graph.profile import seconds_of_rows
from .process_memory import process_memory, trim_heap
from .store import Holdings, Models, Programs

_PROGRESS_INTERVAL = 0.05  # seconds


class Service:
    """All state of the runner. Its requests run one at a time on the main thread, `QUERIES` beside them on another."""

    QUERIES = frozenset({"devices", "memory"})

    def __init__(self, writer: FrameWriter, arena: ArenaView, limits: Limits) -> None:
        self._writer = writer
        self._arena = arena
        self._current = 0  # id of the request being worked on
        self._interrupted = -1
        self._limits = limits
        devices = Devices(
            limits.threads, limits.device_memory, self._is_interrupted, self._announce_drivers, limits.half_sums
        )
        self._holdings = Holdings(devices, Models(limits), Programs())

    def interrupt(self, request: int) -> None:
        """End a request at the next opportunity; called from the reader's thread."""
        self._interrupted = request

    def answer(self, header: Header, payload: bytes) -> None:
        """Do one request and send its reply; raises PeerGone when the client is gone."""
        request = header["id"]
        try:
            handler: Callable[[Header, bytes], dict[str, Any]] = getattr(self, f"_do_{header['do']}")
            if header["do"] in self.QUERIES:
                self._writer.send({"id": request, "done": handler(header, payload)})
                return
            self._current = request
            for device in self._holdings.devices.known():
                device.begin_request()
            self._writer.send({"id": request, "done": handler(header, payload), "peaks": self._peaks()})
        except RequestError as error:
            self._writer.send({"id": request, "error": error.reply(), "peaks": self._peaks()})
        except PeerGone:
            raise
        except Exception as error:
            import traceback

            traceback.print_exc()
            message = f"{type(error).__name__}: {error}"
            self._writer.send({"id": request, "error": {"kind": "internal", "message": message}})

    def _announce_drivers(self, loading: bool) -> None:
        self._writer.send({"event": "drivers", "loading": loading})

    def _progress(self, request: int) -> Callable[[float, float], None]:
        sent = 0.0

        def report(done: float, total: float) -> None:
            nonlocal sent
            now = monotonic()
            if now - sent >= _PROGRESS_INTERVAL or done >= total:
                sent = now
                self._writer.send({"id": request, "progress": [done, total]})

        return report

    def _peaks(self) -> dict[str, int]:
        return {device.name: device.request_peak for device in self._holdings.devices.known()}

    def _is_interrupted(self) -> bool:
        return self._interrupted == self._current

    # requests

    def _do_devices(self, _header: Header, _payload: bytes) -> dict[str, Any]:
        return {"devices": [device.describe() for device in self._holdings.devices.all()]}

    def _do_memory(self, _header: Header, _payload: bytes) -> dict[str, Any]:
        private, resident = process_memory()
        devices = []
        for device in list(self._holdings.devices.known()):
            free, total = device.memory()
            held = {"held": device.held, "peak": device.peak}
            devices.append({"name": device.name, **held, "free": free, "total": total})
        process = {"private": private, "resident": resident, "loads": self._holdings.models.loads}
        return {**process, "devices": devices, "models": self._holdings.report()}

    def _do_load(self, header: Header, _payload: bytes) -> dict[str, Any]:
        files = self._holdings.load(header, self._progress(header["id"]), self._is_interrupted).files
        files.check_files()
        return {
            "mapped": files.mapped,
            "copied": files.copied,
            "repacked": files.repacked.nbytes,
            "streamed": files.streamed_nbytes,
        }

    def _do_array(self, header: Header, _payload: bytes) -> dict[str, Any]:
        device = self._holdings.devices.find(header["device"])
        memory = np.frombuffer(self._arena.memory(header["arena"]), np.uint8)
        self._holdings.models.arrays(device).fill(header["digest"], memory[: header["nbytes"]])
        return {}

    def _do_unload(self, header: Header, _payload: bytes) -> dict[str, Any]:
        unloaded = self._holdings.unload(header)
        if not self._holdings.models:
            self._holdings.programs.clear()
        trim_heap()
        return {"unloaded": unloaded}

    def _do_program(self, header: Header, payload: bytes) -> dict[str, Any]:
        self._holdings.programs.add(header["digest"], payload)
        return {}

    def _do_run(self, header: Header, _payload: bytes) -> dict[str, Any]:
        graph = self._holdings.graph(header)
        arena = np.frombuffer(self._arena.memory(header["arena"]), np.uint8)
        report = self._progress(header["id"])
        inputs = {name: (offset, nbytes) for name, (offset, nbytes) in header["inputs"].items()}
        if header["do"] == "profile":
            return {
                "seconds": seconds_of_rows(graph, arena, inputs, self._is_interrupted, lambda done: report(done, 1.0))
            }
        finite = execute(graph, arena, inputs, self._is_interrupted, lambda fraction: report(fraction, 1.0))
        return {"finite": finite}

    _do_profile = _do_run  # but for the reply

    def _do_dry_run(self, header: Header, _payload: bytes) -> dict[str, Any]:
        steps = [{**header["sets"].get(step.get("digest"), {}), **step} for step in header["steps"]]
        return dry_run(self._holdings, self._limits, header["capacity"], header["foreign"], steps)

    def _do_estimate(self, header: Header, _payload: bytes) -> dict[str, Any]:
        return estimate(self._holdings, self._limits, header)
