"""What the runner holds, and how it answers each request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Any

import numpy as np

from ..placement import AUTO, RAM
from ..program import Program
from ..weights.weight_set import Parameter, WeightSet
from .budget import OverBudget
from .devices import Device, Devices
from .errors import Missing, OutOfMemory, RequestError
from .execute import execute
from .graph import Graph
from .limits import Limits
from .measure import Measured
from .memory import let_go, process_memory
from .models import Key, Model, Models
from .profile import seconds_of_rows
from .protocol import FrameWriter, Header, PeerGone
from .shared_memory import ArenaView

_PROGRAMS_BYTES = 32 << 20  # of serialised programs that are kept; the client sends one again when it is asked for
_PROGRESS_INTERVAL = 0.05  # seconds


class Service:
    """All state of the runner. Its requests run one at a time on the main thread, `QUERIES` beside them on another."""

    QUERIES = frozenset({"devices", "memory"})

    def __init__(self, writer: FrameWriter, arena: ArenaView, limits: Limits) -> None:
        self._writer = writer
        self._arena = arena
        self._devices = Devices(limits.threads, limits.device_memory, self._is_aborted, self._announce_drivers)
        self._current = 0  # id of the request being worked on
        self._aborted = -1
        self._limits = limits
        self._models = Models(limits)
        self._programs: OrderedDict[str, bytes] = OrderedDict()

    def abort(self, request: int) -> None:
        """End a request at the next opportunity; called from the reader's thread."""
        self._aborted = request

    def answer(self, header: Header, payload: bytes) -> None:
        """Do one request and send its reply; raises PeerGone when the client is gone."""
        request = header["id"]
        try:
            handler: Callable[[Header, bytes], dict[str, Any]] = getattr(self, f"_do_{header['do']}")
            if header["do"] not in self.QUERIES:
                self._current = request
            self._writer.send({"id": request, "done": handler(header, payload)})
        except RequestError as error:
            self._writer.send({"id": request, "error": error.reply()})
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

    def _is_aborted(self) -> bool:
        return self._aborted == self._current

    # requests

    def _do_devices(self, _header: Header, _payload: bytes) -> dict[str, Any]:
        return {"devices": [device.describe() for device in self._devices.all()]}

    def _do_memory(self, _header: Header, _payload: bytes) -> dict[str, Any]:
        private, resident = process_memory()
        devices = []
        for device in list(self._devices.known()):
            free, total = device.memory()
            held = {"held": device.held, "peak": device.peak}
            devices.append({"name": device.name, **held, "free": free, "total": total})
        models = [
            {
                "name": model.name,
                "digest": digest,
                "device": place.device,
                "budget": place.budget,
                "files_digest": model.files_key[0],
                "mapped": model.files.mapped,
                "copied": model.files.copied,
                "repacked": model.files.repacked.nbytes,
                "streamed": model.files.streamed_nbytes,
                "staging": graph.staging_bytes if (graph := model.graph) else 0,
                "buffers": len(model.files.placed.buffers),
                "arrays": model.arrays_nbytes,
                "constants": graph.constant_bytes if graph else 0,
                "compute": graph.compute_bytes if graph else 0,
                "work": graph.work_bytes if graph else 0,
            }
            for (digest, place), model in self._models.all()
        ]
        process = {"private": private, "resident": resident, "loads": self._models.loads}
        return {**process, "devices": devices, "models": models}

    def _do_load(self, header: Header, _payload: bytes) -> dict[str, Any]:
        device = self._devices.find(header["device"])
        model = self._models.get(self._key(header, device))
        if model is None:
            if "parameters" not in header:
                raise Missing("the weights are not loaded", what="weights")
            model = self._load(header, device)
        files = model.files
        files.check_files()
        return {
            "mapped": files.mapped,
            "copied": files.copied,
            "repacked": files.repacked.nbytes,
            "streamed": files.streamed_nbytes,
        }

    def _load(self, header: Header, device: Device) -> Model:
        weights = WeightSet(
            header["name"],
            {row[0]: Parameter(row[0], row[1], tuple(row[2]), *row[3:]) for row in header["parameters"]},
            tuple((path, size, mtime_ns) for path, size, mtime_ns in header["files"]),
        )
        key, report = self._key(header, device), self._progress(header["id"])
        try:
            return self._models.load(
                key, device, weights, header["files_digest"], header["arrays"], report, self._is_aborted
            )
        except (OutOfMemory, OverBudget):
            if not self._streams_instead(header, key, device):
                raise
            return self._load(header, device)

    def _streams_instead(self, header: Header, key: Key, device: Device) -> bool:
        """Whether a set that does not fit may be streamed; then it is, from now on."""
        if header["residency"] != AUTO or key[1].weights == RAM:
            return False
        self._models.unload(key)
        self._models.stream(key[0], device)
        return True

    def _do_array(self, header: Header, _payload: bytes) -> dict[str, Any]:
        device = self._devices.find(header["device"])
        memory = np.frombuffer(self._arena.memory(header["arena"]), np.uint8)
        self._models.arrays(device).fill(header["digest"], memory[: header["nbytes"]])
        return {}

    def _do_unload(self, header: Header, _payload: bytes) -> dict[str, Any]:
        device = next((each for each in self._devices.known() if each.name == header["device"]), None)
        unloaded = device is not None and self._models.unload(self._key(header, device))
        if not self._models:
            self._programs.clear()
        let_go()
        return {"unloaded": unloaded}

    def _do_program(self, header: Header, payload: bytes) -> dict[str, Any]:
        self._programs[header["digest"]] = payload
        while len(self._programs) > 1 and sum(map(len, self._programs.values())) > _PROGRAMS_BYTES:
            self._programs.popitem(last=False)
        return {}

    def _do_run(self, header: Header, _payload: bytes) -> dict[str, Any]:
        device = self._devices.find(header["device"])
        key = self._key(header, device)
        model = self._models.get(key)
        if model is None:
            raise Missing("the weights are not loaded", what="weights")
        try:
            model.files.check_files()
        except RequestError:
            self._models.unload(key)
            raise
        graph = self._graph(header, key, model, device)
        arena = np.frombuffer(self._arena.memory(header["arena"]), np.uint8)
        report = self._progress(header["id"])
        inputs = {name: (offset, nbytes) for name, (offset, nbytes) in header["inputs"].items()}
        if header["do"] == "profile":
            return {"seconds": seconds_of_rows(graph, arena, inputs, self._is_aborted, lambda done: report(done, 1.0))}
        finite = execute(graph, arena, inputs, self._is_aborted, lambda fraction: report(fraction, 1.0))
        return {"finite": finite}

    _do_profile = _do_run  # but for the reply

    def _do_measure(self, header: Header, _payload: bytes) -> dict[str, Any]:
        """The room is what is free and what idle programs give back: other models' weights stay for a larger tile."""
        device = self._devices.find(header["device"])
        measured = Measured(header["name"], Program.from_bytes(self._program(header["program"])), device)
        measured.free()
        there = [model for (_, place), model in self._models.all() if place.device == device.name]
        idle = [model.graph.compute_bytes + model.graph.constant_bytes for model in there if model.graph]
        return {
            "compute": measured.compute,
            "constants": measured.constants_size,
            "work": measured.work_bytes,
            "largest_tensor": measured.largest_tensor,
            "largest_operation": measured.largest_operation,
            "room": device.memory()[0] + sum(idle),
            "largest_buffer": min(device.largest_buffer, self._limits.largest_buffer or 1 << 62),
            "operation_limit": device.traits.largest_operation,
        }

    def _program(self, digest: str) -> bytes:
        if digest not in self._programs:
            raise Missing("the program is not known", what="program")
        self._programs.move_to_end(digest)
        return self._programs[digest]

    def _graph(self, header: Header, key: Key, model: Model, device: Device) -> Graph:
        digest = header["program"]
        if model.graph is not None and model.program == digest:
            return model.graph
        serialised = self._program(digest)
        try:
            return self._models.build(key, digest, serialised, device)
        except (OutOfMemory, OverBudget):
            if not self._streams_instead(header, key, device):
                raise
            raise Missing("the weights are to be loaded anew", what="weights") from None

    def _key(self, header: Header, device: Device) -> Key:
        digest = header["digest"]
        return digest, self._models.place(digest, device, header["residency"], header["budget"])
