"""Answers requests: devices, memory, loading, runs, estimates and dry runs."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from time import monotonic

import numpy as np

from ..errors import Interrupted, RunnerError
from ..heap import trim_heap
from ..wire.failures import Failure, failure
from ..wire.frames import FrameWriter, PeerGone
from ..wire.messages import (
    ArrayRequest,
    DeviceMemory,
    Devices,
    DevicesRequest,
    Done,
    DriversEvent,
    DryRunRequest,
    EstimateRequest,
    LoadReport,
    LoadRequest,
    MemoryReport,
    MemoryRequest,
    ProfileReply,
    ProfileRequest,
    ProgramRequest,
    Progress,
    Query,
    ReleaseRequest,
    Reply,
    Result,
    RunReply,
    RunRequest,
    UnloadRequest,
    Work,
)
from ..wire.shared_memory import ArenaView
from .device.devices import Limits, ggml_devices
from .dry_run import DryRunCache, dry_run, estimate
from .graph.execute import execute
from .graph.profile import seconds_of_rows
from .process_memory import process_memory
from .store import Store

_PROGRESS_INTERVAL = 0.05  # seconds


class Service:
    """All state of the runner. Its requests run one at a time on the main thread, a Query beside them on another."""

    def __init__(self, writer: FrameWriter, arena: ArenaView, limits: Limits) -> None:
        self._writer = writer
        self._arena = arena
        self._current = 0  # number of the request being worked on
        self._interrupted = -1
        self._devices = ggml_devices(limits, self._is_interrupted, self._announce_drivers)
        self._store = Store(self._devices)
        self._dry_run_cache = DryRunCache()

    def interrupt(self, request: int) -> None:
        """End a request at the next opportunity; called from the reader's thread."""
        self._interrupted = request

    def answer(self, number: int, request: Query | Work, payload: bytes) -> None:
        """Do one request and send its reply; raises PeerGone when the client is gone."""
        is_query = isinstance(request, Query)
        if not is_query:
            self._current = number
            for device in self._devices.known():
                device.begin_request()
        result: Result | Failure
        try:
            result = self._result(number, request, payload)
        except PeerGone:
            raise
        except Exception as error:
            if not isinstance(error, RunnerError | Interrupted):
                traceback.print_exc()
            result = failure(error)
        peaks = {} if is_query else {device.name: device.request_peak for device in self._devices.known()}
        self._writer.send(number, Reply(result, peaks))

    def _result(self, number: int, request: Query | Work, payload: bytes) -> Result:
        match request:
            case DevicesRequest():
                found = tuple(device.describe() for device in self._devices.all())
                return Devices(found, self._devices.unusable)
            case MemoryRequest():
                return self._memory()
            case LoadRequest():
                files = self._store.load(request, self._progress(number), self._is_interrupted).files
                files.check_files()
                return LoadReport(
                    files.mapped_bytes, files.copied_bytes, files.repacked.weight_bytes, files.streamed_bytes
                )
            case ArrayRequest(device, digest, nbytes, arena):
                arrays = self._store.arrays(self._devices.find(device))
                arrays.fill(digest, self._shared(arena)[:nbytes])
            case ReleaseRequest():
                self._store.release(request)
            case UnloadRequest():
                self._store.unload(request)
                if not self._store.loaded():
                    self._store.programs.clear()
                trim_heap()
            case ProgramRequest(digest):
                self._store.programs.put(digest, payload)
            case RunRequest(inputs=inputs, arena=arena, turn=turn):
                report = self._progress(number)
                graph = self._store.graph(request, lambda *_: report(0.0), self._is_interrupted)
                return RunReply(execute(graph, self._shared(arena), inputs, self._is_interrupted, report, turn))
            case ProfileRequest(run):
                report = self._progress(number)
                graph = self._store.graph(run, lambda *_: report(0.0), self._is_interrupted)
                seconds = seconds_of_rows(graph, self._shared(run.arena), run.inputs, self._is_interrupted, report)
                return ProfileReply(tuple(seconds.items()))
            case DryRunRequest():
                return dry_run(self._store, self._dry_run_cache, request, self._is_interrupted)
            case EstimateRequest():
                return estimate(self._store, self._dry_run_cache, request)
        return Done()

    def _memory(self) -> MemoryReport:
        private, resident = process_memory()
        known = []
        for device in list(self._devices.known()):
            free, total = device.memory()
            known.append(DeviceMemory(device.name, device.held, device.peak, free, total))
        return MemoryReport(private, resident, tuple(known), self._store.memory(), self._store.loads)

    def _shared(self, size: int) -> np.ndarray:
        return np.frombuffer(self._arena.memory(size), np.uint8)

    def _announce_drivers(self, loading: bool) -> None:
        self._writer.send(0, DriversEvent(loading))

    def _progress(self, number: int) -> Callable[..., None]:
        sent = 0.0

        def report(done: float, total: float = 1.0) -> None:
            nonlocal sent
            now = monotonic()
            if now - sent >= _PROGRESS_INTERVAL or done >= total:
                sent = now
                self._writer.send(number, Progress(done, total))

        return report

    def _is_interrupted(self) -> bool:
        return self._interrupted == self._current
