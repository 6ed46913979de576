"""The models that are loaded, and which of them make room for another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

from ..errors import Missing, OutOfMemory, RequestError
from ..placement import AUTO, DEVICE, RAM
from ..program import Program
from ..weights.weight_set import Parameter, WeightSet
from ..wire.frames import Header
from .device.budget import Budget, OverBudget
from .device.devices import Device, Devices, Limits
from .graph.graph import Graph
from .weight_memory.arrays import Arrays
from .weight_memory.resident import FileWeights, Progress

Made = TypeVar("Made")


class DeviceKey(NamedTuple):
    """A device by name, where the weights live that it computes with, and the bytes of it they may use (0: any)."""

    device: str
    weights: str
    budget: int


Key = tuple[str, DeviceKey]  # by digest: of a weight set or, for what several sets share, of its files' parameters


class Model:
    """A weight set on a device, with the one program that is built for it."""

    def __init__(self, name: str, files: FileWeights, files_key: Key, arrays: dict[str, str], store: Arrays) -> None:
        self.name = name
        self.arrays_nbytes = store.nbytes(set(arrays.values()))
        self.files = files
        self.files_key = files_key
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

    @property
    def nbytes(self) -> int:
        """Device memory of its weights."""
        return self.files.copied + self.files.repacked.nbytes + self.arrays_nbytes

    def drop_graph(self) -> None:
        """Free the built program and its compute buffer."""
        if self.graph:
            self.graph.free()
        self.graph, self.program = None, ""


class Models:
    """Weight sets by key, the least recently used first."""

    files_type = FileWeights

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._models: OrderedDict[Key, Model] = OrderedDict()
        self._files: dict[Key, FileWeights] = {}
        self._arrays: dict[str, Arrays] = {}  # by device
        self._too_large: set[tuple[str, str]] = set()  # weight sets and devices they were found not to fit
        self.loads = 0  # times that weights were brought from their files
        self._arriving: set[str] = set()  # arrays of the set that is being loaded

    def __len__(self) -> int:
        return len(self._models)

    def device_key(self, digest: str, device: Device, weights: str, budget: int) -> DeviceKey:
        """Where the weights of a set live, when a client asks for them so."""
        if weights == AUTO:
            streams = device.type == "CPU" or (digest, device.name) in self._too_large
            weights = RAM if streams else DEVICE
        return DeviceKey(device.name, weights, budget)

    def stream(self, digest: str, device: Device) -> None:
        """Note that a set is too large for a device: AUTO means RAM for it from now on."""
        self._too_large.add((digest, device.name))

    def get(self, key: Key) -> Model | None:
        """A loaded set, which is now the one used last."""
        if key in self._models:
            self._models.move_to_end(key)
        return self._models.get(key)

    def all(self) -> Iterator[tuple[Key, Model]]:
        """Every loaded set, from whatever thread asks."""
        return iter(list(self._models.items()))

    def arrays(self, device: Device) -> Arrays:
        """The arrays on a device."""
        return self._arrays.setdefault(device.name, Arrays(device))

    def load(
        self, key: Key, device: Device, weights: WeightSet, files_digest: str, announced: list[list[Any]],
        progress: Progress, interrupted: Callable[[], bool],
    ) -> Model:  # fmt: skip
        """Load a weight set; announced: name, digest, ggml type and shape of its arrays.

        Raises Missing for arrays whose content is still to come, WeightsError, OutOfMemory, OverBudget, Interrupted.
        """
        device_key, files_key = key[1], (files_digest, key[1])
        self._arriving = {digest for _, digest, _, _ in announced}
        described = [(digest, type_, tuple(shape)) for _, digest, type_, shape in announced]
        store, what = self.arrays(device), f"the patches of {weights.name}"
        missing = self._evicting(device, files_key, lambda: store.place(described, what, self.limits.largest_buffer))
        if missing:
            raise Missing("arrays are still to come", what="arrays", digests=missing)
        if files_key not in self._files:
            if device_key.weights != RAM and device_key.budget:
                _check_budget(weights, device_key)
            largest = self.limits.largest_buffer
            load = partial(self.files_type, weights, device, progress, interrupted, largest, device_key.weights)
            self._files[files_key] = self._evicting(device, files_key, load)
            self.loads += 1
        arrays = {name: digest for name, digest, _, _ in announced}
        model = self._models[key] = Model(weights.name, self._files[files_key], files_key, arrays, store)
        self._arriving = set()
        self._unload_siblings(key)
        self._collect()
        return model

    def unload(self, key: Key) -> bool:
        """Free a set and what no other set uses; whether it was there."""
        model = self._models.pop(key, None)
        if model:
            model.drop_graph()
            self._collect()
        return model is not None

    def evict_oldest(self, device: Device) -> bool:
        """Unload the set on a device that was used least recently; whether there was one."""
        there = next((key for key in self._models if key[1].device == device.name), None)
        return there is not None and self.unload(there)

    def build(self, key: Key, digest: str, serialised: bytes, device: Device) -> Graph:
        """Build a program for a loaded set, in place of the one that was."""
        model = self._models[key]
        for each in (key, *self._siblings(key)):  # also as `fit` may free weights that their graphs point to
            self._models[each].drop_graph()
        program = self.parsed(digest, serialised)
        model.files.unrepack_for(program)
        limit = key[1].budget
        budget = Budget(limit, model.nbytes) if limit else None
        build = partial(self.graph, digest, model.name, program, model.weight, model.files, self.limits, budget)
        model.graph = self._evicting(device, model.files_key, build)
        model.program = digest
        return model.graph

    def parsed(self, digest: str, serialised: bytes) -> Program:
        """A program by its digest; raises what Program.from_bytes does."""
        return Program.from_bytes(serialised)

    def graph(self, digest: str, *arguments: Any) -> Graph:
        """The program of that digest as a Graph, made of its arguments."""
        return Graph(*arguments)

    def _siblings(self, key: Key) -> list[Key]:
        """The other weight sets at the place of the same files: one model with other patches."""
        files_key = self._models[key].files_key
        return [other for other, model in self._models.items() if other != key and model.files_key == files_key]

    def _unload_siblings(self, key: Key) -> None:
        """Unload what a new set of patches takes the place of; a client that still wants it loads it again."""
        if self._models[key].arrays:
            for other in self._siblings(key):
                if self._models[other].arrays:
                    self._models.pop(other).drop_graph()

    def _evicting(self, device: Device, files_key: Key, attempt: Callable[[], Made]) -> Made:
        """Do what allocates on a device for the set of these files, letting go of others while it does not fit."""
        while True:
            try:
                return attempt()
            except OutOfMemory:
                if not self._evict(device, files_key):
                    raise

    def _evict(self, device: Device, files_key: Key) -> bool:
        """Free the compute buffer, or when there is none left the weights, of the model used least recently."""
        there = [(key, model) for key, model in self._models.items() if key[1].device == device.name]
        for _, model in there:
            if model.graph:
                model.drop_graph()
                return True
        return any(self.unload(key) for key, model in there if model.files_key != files_key and model.nbytes)

    def _collect(self) -> None:
        """Free files and arrays that no loaded model uses."""
        used = {model.files_key for model in self._models.values()}
        for key in [key for key in self._files if key not in used]:
            self._files.pop(key).free()
        for name, store in self._arrays.items():
            models = [model for (_, device_key), model in self._models.items() if device_key.device == name]
            store.keep(self._arriving.union(*(model.arrays.values() for model in models)))


def _check_budget(weights: WeightSet, device_key: DeviceKey) -> None:
    nbytes = sum(parameter.loaded_nbytes for parameter in weights.parameters.values())
    if nbytes > device_key.budget:
        raise OverBudget(weights.name, device_key.device, Budget(device_key.budget, nbytes), 0, 0)


class Holdings:
    """What requests load, build and unload on the devices there are."""

    def __init__(self, devices: Devices, models: Models, programs: Programs) -> None:
        self.devices = devices
        self.models = models
        self.programs = programs

    def load(self, request: Header, progress: Progress, interrupted: Callable[[], bool]) -> Model:
        """The loaded set that a request names, loaded now if it describes one that is not.

        Raises Missing where it does not describe it, and what Models.load does.
        """
        device = self.devices.find(request["device"])
        model = self.models.get(self._key(request, device))
        if model is not None:
            return model
        if "parameters" not in request:
            raise Missing("the weights are not loaded", what="weights")
        return self._load(request, device, progress, interrupted)

    def loaded(self, request: Header) -> Model:
        """The set that a request computes with; raises Missing, and WeightsError when its files have changed."""
        device = self.devices.find(request["device"])
        key = self._key(request, device)
        model = self.models.get(key)
        if model is None:
            raise Missing("the weights are not loaded", what="weights")
        try:
            model.files.check_files()
        except RequestError:
            self.models.unload(key)
            raise
        return model

    def graph(self, request: Header) -> Graph:
        """The graph of a request's program on its loaded set, built now if it is not.

        Raises Missing where either is not there, and what Models.build does.
        """
        model = self.loaded(request)
        digest = request["program"]
        if model.graph is not None and model.program == digest:
            return model.graph
        device, serialised = self.devices.find(request["device"]), self.programs[digest]
        key = self._key(request, device)
        try:
            return self.models.build(key, digest, serialised, device)
        except (OutOfMemory, OverBudget):
            if not self._streams_instead(request, key, device):
                raise
            raise Missing("the weights are to be loaded anew", what="weights") from None

    def unload(self, request: Header) -> bool:
        """Free a set; whether it was there."""
        device = next((each for each in self.devices.known() if each.name == request["device"]), None)
        return device is not None and self.models.unload(self._key(request, device))

    def report(self) -> list[dict[str, Any]]:
        """What is held for each set, as the client's ModelMemory has it."""
        return [
            {
                "name": model.name,
                "digest": digest,
                "device": device_key.device,
                "budget": device_key.budget,
                "files_digest": model.files_key[0],
                "mapped": model.files.mapped,
                "copied": model.files.copied,
                "repacked": model.files.repacked.nbytes,
                "streamed": model.files.streamed_nbytes,
                "staging": graph.staging_bytes if (graph := model.graph) else 0,
                "buffers": len(model.files.allocation.buffers),
                "arrays": model.arrays_nbytes,
                "constants": graph.constant_bytes if graph else 0,
                "compute": graph.compute_bytes if graph else 0,
                "work": graph.work_bytes if graph else 0,
            }
            for (digest, device_key), model in self.models.all()
        ]

    def _load(self, request: Header, device: Device, progress: Progress, interrupted: Callable[[], bool]) -> Model:
        weights = WeightSet(
            request["name"],
            {row[0]: Parameter(row[0], row[1], tuple(row[2]), *row[3:]) for row in request["parameters"]},
            tuple((path, size, mtime_ns) for path, size, mtime_ns in request["files"]),
        )
        key = self._key(request, device)
        try:
            return self.models.load(
                key, device, weights, request["files_digest"], request["arrays"], progress, interrupted
            )
        except (OutOfMemory, OverBudget):
            if not self._streams_instead(request, key, device):
                raise
            return self._load(request, device, progress, interrupted)

    def _streams_instead(self, request: Header, key: Key, device: Device) -> bool:
        """Whether a set that does not fit may be streamed; then it is, from now on."""
        if request["residency"] != AUTO or key[1].weights == RAM:
            return False
        self.models.unload(key)
        self.models.stream(key[0], device)
        return True

    def _key(self, request: Header, device: Device) -> Key:
        digest = request["digest"]
        return digest, self.models.device_key(digest, device, request["residency"], request["budget"])


_KEPT_BYTES = 32 << 20


class Programs:
    """By digest; those used last are kept, and the client sends one again when it is asked for."""

    def __init__(self) -> None:
        self._programs: OrderedDict[str, bytes] = OrderedDict()

    def __getitem__(self, digest: str) -> bytes:
        """Raises Missing."""
        if digest not in self._programs:
            raise Missing("the program is not known", what="program", digest=digest)
        self._programs.move_to_end(digest)
        return self._programs[digest]

    def add(self, digest: str, serialised: bytes) -> None:
        """Keep a program, and of the others as many as there is room for."""
        self._programs[digest] = serialised
        while len(self._programs) > 1 and sum(map(len, self._programs.values())) > _KEPT_BYTES:
            self._programs.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._programs.clear()
