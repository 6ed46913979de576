"""What the runner holds, and how it answers each request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from ..placement import AUTO, DEVICE, RAM
from ..program import Program
from ..weights.weight_set import Parameter, WeightSet
from .devices import Device, Devices
from .errors import Missing, OutOfMemory, RequestError
from .execute import execute
from .graph import Graph
from .limits import Limits
from .memory import process_memory
from .protocol import FrameWriter, Header, PeerGone
from .shared_memory import ArenaView
from .weights import Arrays, FileWeights

_PROGRAMS_KEPT = 32  # serialised; the client sends one again when it is asked for
_PROGRESS_INTERVAL = 0.05  # seconds


class Place(NamedTuple):
    """A device by name, where the weights live that it computes with, and the bytes of its memory it may use."""

    device: str
    weights: str
    budget: int


class Model:
    """A weight set on a device, with the one program that is built for it."""

    def __init__(self, name: str, files: FileWeights, files_digest: str, arrays: dict[str, str], store: Arrays) -> None:
        self.name = name
        self.arrays_nbytes = store.nbytes(set(arrays.values()))
        self.files = files
        self.files_digest = files_digest
        self.arrays = arrays  # parameter name -> digest of the array
        self.graph: Graph | None = None
        self.program = ""  # digest of what the graph was built from
        self._store = store

    def weight(self, name: str) -> Any:
        """The tensor of a parameter; raises RequestError when the set has none of that name."""
        if name in self.arrays:
            return self._store.tensor(self.arrays[name])
        tensor = self.files.tensor(name)
        if tensor is None:
            raise RequestError(f"{self.name} has no weight {name}")
        return tensor

    def drop_graph(self) -> None:
        """Free the built program and its compute buffer."""
        if self.graph:
            self.graph.free()
        self.graph, self.program = None, ""


class Service:
    """All state of the runner. Its requests run one at a time on the main thread, `QUERIES` beside them on another."""

    QUERIES = frozenset({"devices", "memory"})

    def __init__(self, writer: FrameWriter, arena: ArenaView, limits: Limits) -> None:
        self._writer = writer
        self._arena = arena
        self._largest = limits.largest_buffer
        self._devices = Devices(limits.threads, limits.device_memory, self._is_aborted, self._announce_drivers)
        self._current = 0  # id of the request being worked on
        self._aborted = -1
        self._files: dict[tuple[str, Place], FileWeights] = {}  # by (digest of the files' parameters, place)
        self._arrays: dict[str, Arrays] = {}  # by device
        self._models: dict[tuple[str, Place], Model] = {}  # by (digest of the weight set, place)
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
            devices.append({"name": device.name, "held": device.held, "free": free, "total": total})
        models = [
            {
                "name": model.name,
                "digest": digest,
                "device": place.device,
                "files_digest": model.files_digest,
                "mapped": model.files.mapped,
                "copied": model.files.copied,
                "repacked": model.files.repacked.nbytes,
                "buffers": len(model.files.placed.buffers),
                "arrays": model.arrays_nbytes,
                "constants": graph.constant_bytes if (graph := model.graph) else 0,
                "compute": graph.compute_bytes if graph else 0,
                "work": graph.work_bytes if graph else 0,
            }
            for (digest, place), model in list(self._models.items())
        ]
        return {"private": private, "resident": resident, "devices": devices, "models": models}

    def _do_load(self, header: Header, _payload: bytes) -> dict[str, Any]:
        device = self._devices.find(header["device"])
        key = (header["digest"], _place(header, device))
        if key not in self._models:
            if "parameters" not in header:
                raise Missing("the weights are not loaded", what="weights")
            self._models[key] = self._load(header, device, key[1])
            self._retire_siblings(key)
            self._collect()
        files = self._models[key].files
        files.check_files()
        return {"mapped": files.mapped, "copied": files.copied, "repacked": files.repacked.nbytes}

    def _load(self, header: Header, device: Device, place: Place) -> Model:
        weights = WeightSet(
            header["name"],
            {row[0]: Parameter(row[0], row[1], tuple(row[2]), *row[3:]) for row in header["parameters"]},
            tuple((path, size, mtime_ns) for path, size, mtime_ns in header["files"]),
        )
        store = self._arrays.setdefault(device.name, Arrays(device))
        announced = [(digest, type_, tuple(shape)) for _, digest, type_, shape in header["arrays"]]
        what = f"the patches of {weights.name}"
        missing = self._with_room(device, lambda: store.place(announced, what, self._largest))
        if missing:
            raise Missing("arrays are still to come", what="arrays", digests=missing)
        files_key = (header["files_digest"], place)
        if files_key not in self._files:
            report = self._progress(header["id"])
            repack = place.weights == DEVICE
            load = partial(FileWeights, weights, device, report, self._is_aborted, self._largest, repack)
            self._files[files_key] = self._with_room(device, load)
        arrays = {name: digest for name, digest, _, _ in header["arrays"]}
        return Model(weights.name, self._files[files_key], files_key[0], arrays, store)

    def _do_array(self, header: Header, _payload: bytes) -> dict[str, Any]:
        device = self._devices.find(header["device"])
        memory = np.frombuffer(self._arena.memory(header["arena"]), np.uint8)
        self._arrays[device.name].fill(header["digest"], memory[: header["nbytes"]])
        return {}

    def _do_unload(self, header: Header, _payload: bytes) -> dict[str, Any]:
        device = next((each for each in self._devices.known() if each.name == header["device"]), None)
        model = self._models.pop((header["digest"], _place(header, device)), None) if device else None
        if model:
            model.drop_graph()
            self._collect()
        return {"unloaded": model is not None}

    def _do_program(self, header: Header, payload: bytes) -> dict[str, Any]:
        self._programs[header["digest"]] = payload
        while len(self._programs) > _PROGRAMS_KEPT:
            self._programs.popitem(last=False)
        return {}

    def _do_run(self, header: Header, _payload: bytes) -> dict[str, Any]:
        device = self._devices.find(header["device"])
        key = (header["weights"], _place(header, device))
        model = self._models.get(key)
        if model is None:
            raise Missing("the weights are not loaded", what="weights")
        try:
            model.files.check_files()
        except RequestError:
            self._do_unload({**header, "digest": header["weights"]}, b"")
            raise
        graph = self._graph(key, header["program"], device)
        arena = np.frombuffer(self._arena.memory(header["arena"]), np.uint8)
        report = self._progress(header["id"])
        inputs = {name: (offset, nbytes) for name, (offset, nbytes) in header["inputs"].items()}
        finite = execute(graph, arena, inputs, self._is_aborted, lambda fraction: report(fraction, 1.0))
        return {"finite": finite}

    def _graph(self, key: tuple[str, Place], digest: str, device: Device) -> Graph:
        model = self._models[key]
        if model.program != digest or model.graph is None:
            if digest not in self._programs:
                raise Missing("the program is not known", what="program")
            self._programs.move_to_end(digest)
            for each in (key, *self._siblings(key)):  # also as `fit` may free weights that their graphs point to
                self._models[each].drop_graph()
            program = Program.from_bytes(self._programs[digest])
            model.files.fit(program)
            build = partial(Graph, model.name, program, model.weight, device, self._largest)
            model.graph = self._with_room(device, build)
            model.program = digest
        return model.graph

    def _siblings(self, key: tuple[str, Place]) -> list[tuple[str, Place]]:
        """The other weight sets at the place of the same files: one model with other patches."""
        files_digest = self._models[key].files_digest
        return [
            other
            for other, model in self._models.items()
            if other != key and other[1] == key[1] and model.files_digest == files_digest
        ]

    def _retire_siblings(self, key: tuple[str, Place]) -> None:
        """Unload what a new set of patches takes the place of; a client that still wants it loads it again."""
        if self._models[key].arrays:
            for other in self._siblings(key):
                if self._models[other].arrays:
                    self._models.pop(other).drop_graph()

    def _with_room(self, device: Device, attempt: Callable[[], Any]) -> Any:
        """Do what allocates; where it does not fit, once more without the compute buffers of idle models."""
        try:
            return attempt()
        except OutOfMemory:
            idle = [model for (_, place), model in self._models.items() if place.device == device.name and model.graph]
            if not idle:
                raise
            for model in idle:
                model.drop_graph()
            return attempt()

    def _collect(self) -> None:
        """Free files and arrays that no loaded model uses."""
        used = {(model.files_digest, place) for (_, place), model in self._models.items()}
        for key in [key for key in self._files if key not in used]:
            self._files.pop(key).free()
        for device, store in self._arrays.items():
            models = [model for (_, place), model in self._models.items() if place.device == device]
            store.keep({digest for model in models for digest in model.arrays.values()})


def _place(header: Header, device: Device) -> Place:
    """Where the weights of a request are."""
    weights = header["residency"]
    if weights == AUTO:
        weights = RAM if device.type == "CPU" else DEVICE
    return Place(device.name, weights, header["budget"])
