"""Weight sets that are loaded on devices, the program built for each, and which of them are evicted for another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

from ..errors import IsInterrupted, Missing, OutOfMemory, RunnerError
from ..lru import LRU
from ..placement import AUTO, CPU, DEVICE, RAM, Placement
from ..program import Program
from ..weights.weight_set import WeightSet
from ..wire.messages import LoadRequest, ModelMemory, ReleaseRequest, RunRequest, UnloadRequest, WeightsDescription
from .device.buffers import Budget, OverBudget
from .device.devices import Device, Devices
from .graph.graph import Graph, GraphWeights, Needs, ProgramCache
from .weight_memory.arrays import Arrays
from .weight_memory.files import FileSource, MappedFiles, Progress
from .weight_memory.resident import FileWeights

_PROGRAM_BYTES = 32 << 20  # of serialised programs; the client sends one again where it is missing
Made = TypeVar("Made")


class Key(NamedTuple):
    """A weight set on a device, by what decides about its memory."""

    digest: str  # of its content; for what several sets share, of its files' parameters
    device: str
    residency: str  # DEVICE, RAM or DISK
    budget: int  # bytes of the device that it and its program may take; 0: any


class LoadedWeights:
    """A weight set on a device, with the one program that is built for it."""

    def __init__(self, described: WeightsDescription, files: FileWeights, files_key: Key, arrays: Arrays) -> None:
        self.described = described
        self.name = described.name
        self.files = files
        self.files_key = files_key
        self.arrays = {array.name: array.digest for array in described.arrays}
        self.array_bytes = arrays.weight_bytes(set(self.arrays.values()))
        self.graph: Graph | None = None
        self.program = ""  # digest of what the graph was built from
        self._placed = arrays

    def weight(self, name: str) -> Any:
        """The tensor of a parameter; raises RunnerError when the set has none of that name."""
        if name in self.arrays:
            return self._placed.tensor(self.arrays[name])
        tensor = self.files.tensor(name)
        if tensor is None:
            raise RunnerError(f"{self.name} has no weight {name}")
        return tensor

    def graph_weights(self) -> GraphWeights:
        """All that a program computes with."""
        files = self.files
        device, repacked_bytes = files.allocation.device, files.repacked.weight_bytes
        return GraphWeights(device, self.weight, files.streamed_tensors, files.fill, repacked_bytes)

    @property
    def weight_bytes(self) -> int:
        """Device memory of its weights."""
        return self.files.weight_bytes + self.array_bytes

    def drop_graph(self) -> None:
        """Free the built program and its compute buffer."""
        if self.graph:
            self.graph.free()
        self.graph, self.program = None, ""

    def memory(self, key: Key) -> ModelMemory:
        """Reports what is held for it, in bytes."""
        files, graph = self.files, self.graph
        return ModelMemory(
            name=self.name,
            digest=key.digest,
            device=key.device,
            budget=key.budget,
            files_digest=self.files_key.digest,
            mapped=files.mapped_bytes,
            copied=files.copied_bytes,
            repacked=files.repacked.weight_bytes,
            streamed=files.streamed_bytes,
            staging=graph.staging_bytes if graph else 0,
            buffers=len(files.allocation.buffers),
            arrays=self.array_bytes,
            constants=graph.constant_bytes if graph else 0,
            compute=graph.compute_bytes if graph else 0,
            work=graph.work_bytes if graph else 0,
        )


class Store:
    """Loaded weight sets, the least recently used first, and the programs that the client sent."""

    def __init__(
        self, devices: Devices, source: Callable[[WeightSet], FileSource] = MappedFiles,
        programs: LRU[str, bytes] | None = None, cache: ProgramCache | None = None,
    ) -> None:  # fmt: skip
        """source: of weights that lie in files. programs: serialised, by digest; none are known at first.

        cache: of parsed programs and their needs, for devices that only count.
        """
        self.devices = devices
        self.programs = programs or LRU[str, bytes](_PROGRAM_BYTES, len)
        self._source = source
        self._cache = cache
        self.loads = 0  # times that weights were brought from their files
        self._sets: OrderedDict[Key, LoadedWeights] = OrderedDict()
        self._files: dict[Key, FileWeights] = {}
        self._arrays: dict[str, Arrays] = {}  # by device
        self._arriving: set[str] = set()  # arrays of the set that is being loaded
        self._too_large: set[tuple[str, str]] = set()  # weight sets and devices they were found not to fit

    # Requests

    def load(self, request: LoadRequest, progress: Progress, interrupted: IsInterrupted) -> LoadedWeights:
        """The weight set that a request names, loaded now if it is not.

        Raises Missing where the request does not describe it and for arrays whose content is still to come,
        WeightsError, OutOfMemory, OverBudget, Interrupted.
        """
        device = self.devices.find(request.placement.device)
        key, loaded = self._resolve(request.digest, request.placement, device)
        described = request.weights
        if loaded is not None:
            return loaded
        if described is None:
            raise Missing("weights")

        def load(key: Key) -> LoadedWeights:
            return self._load(key, device, described, progress, interrupted)

        return self._or_streamed(key, request.placement, load)

    def graph(self, request: RunRequest, progress: Progress, interrupted: IsInterrupted) -> Graph:
        """The program of a request built for its loaded weight set, now if it is not.

        progress, interrupted: for weights that are loaded anew because they turn out to be too large for the device.
        Raises Missing where weights or program are not there, ProgramFault, and what `load` does.
        """
        device = self.devices.find(request.placement.device)
        key, loaded = self._resolve(request.digest, request.placement, device)
        if loaded is None:
            raise Missing("weights")
        try:
            loaded.files.check_files()
        except RunnerError:
            self._unload(key)
            raise
        if loaded.graph is not None and loaded.program == request.program:
            return loaded.graph
        parsed = self.parsed(request.program)

        def build(key: Key) -> Graph:
            there = self._sets.get(key) or self._load(key, device, loaded.described, progress, interrupted)
            return self._build(there, key, device, request.program, *parsed)

        return self._or_streamed(key, request.placement, build)

    def release(self, request: ReleaseRequest) -> None:
        """Free the compute buffer of a weight set; loads no driver to do so."""
        key = self._known_key(request)
        loaded = self._sets.get(key) if key else None
        if loaded:
            loaded.drop_graph()

    def unload(self, request: UnloadRequest) -> None:
        """Free a weight set and what no other set uses; loads no driver to do so."""
        key = self._known_key(request)
        if key is not None:
            self._unload(key)

    def arrays(self, device: Device) -> Arrays:
        """The arrays on a device."""
        return self._arrays.setdefault(device.name, Arrays(device))

    # State

    def loaded(self) -> list[tuple[Key, LoadedWeights]]:
        """Every loaded set, from whatever thread asks."""
        return list(self._sets.items())

    def memory(self) -> tuple[ModelMemory, ...]:
        """Reports what is held for each set, in bytes."""
        return tuple(loaded.memory(key) for key, loaded in self.loaded())

    def evict_oldest(self, device: Device) -> bool:
        """Unload the set on a device that was used least recently; whether there was one."""
        there = next((key for key in self._sets if key.device == device.name), None)
        if there is not None:
            self._unload(there)
        return there is not None

    def clear(self) -> None:
        """Unload all."""
        for key in list(self._sets):
            self._unload(key)

    def serialised(self, digest: str) -> bytes:
        """A program as the client sent it; raises Missing."""
        found = self.programs.get(digest)
        if found is None:
            raise Missing("program", (digest,))
        return found

    def parsed(self, digest: str) -> tuple[Program, dict[Hashable, Needs] | None]:
        """A program by its digest, and its known needs; raises Missing, and what Program.from_bytes does."""
        serialised = self.serialised(digest)
        return self._cache.parsed(digest, serialised) if self._cache else (Program.from_bytes(serialised), None)

    def _resolve(self, digest: str, placement: Placement, device: Device) -> tuple[Key, LoadedWeights | None]:
        """The weight set that a request is about, which is now the one used last, if it is loaded."""
        residency = placement.residency
        if residency == AUTO:
            streams = device.type == CPU or (digest, device.name) in self._too_large
            residency = RAM if streams else DEVICE
        key = Key(digest, device.name, residency, placement.budget)
        if key in self._sets:
            self._sets.move_to_end(key)
        return key, self._sets.get(key)

    def _known_key(self, request: ReleaseRequest | UnloadRequest) -> Key | None:
        """The key of a weight set; None where its device was not used yet."""
        device = next((each for each in self.devices.known() if each.name == request.placement.device), None)
        return None if device is None else self._resolve(request.digest, request.placement, device)[0]

    def _load(
        self, key: Key, device: Device, described: WeightsDescription, progress: Progress, interrupted: IsInterrupted
    ) -> LoadedWeights:
        files_key = key._replace(digest=described.files_digest)
        self._arriving = {array.digest for array in described.arrays}
        announced = [(array.digest, array.type, array.shape) for array in described.arrays]
        arrays, label = self.arrays(device), f"the patches of {described.name}"
        missing = self._evicting(device, files_key, lambda: arrays.place(announced, label))
        if missing:
            raise Missing("arrays", tuple(missing))
        if files_key not in self._files:
            weights = WeightSet(described.name, {each.name: each for each in described.parameters}, described.files)
            if key.residency != RAM and key.budget:
                _check_budget(weights, key)
            self._files[files_key] = self._evicting(
                device, files_key,
                lambda: FileWeights(weights, device, self._source(weights), progress, interrupted, key.residency),
            )  # fmt: skip
            self.loads += 1
        loaded = self._sets[key] = LoadedWeights(described, self._files[files_key], files_key, arrays)
        self._arriving = set()
        self._unload_siblings(key)
        self._collect()
        return loaded

    def _build(
        self, loaded: LoadedWeights, key: Key, device: Device, digest: str, program: Program,
        known: dict[Hashable, Needs] | None,
    ) -> Graph:  # fmt: skip
        """Build a program for a loaded set, in place of the one that was; known: as for Graph."""
        for each in (loaded, *self._siblings(key).values()):  # also as weights are freed that their graphs point to
            each.drop_graph()
        loaded.files.unrepack_for(program)
        budget = Budget(key.budget, loaded.weight_bytes) if key.budget else None
        weights = loaded.graph_weights()
        loaded.graph = self._evicting(
            device, loaded.files_key, lambda: Graph(loaded.name, program, weights, budget, known)
        )
        loaded.program = digest
        return loaded.graph

    def _or_streamed(self, key: Key, placement: Placement, attempt: Callable[[Key], Made]) -> Made:
        """Do what takes memory for a weight set; where there is too little, once more with its weights in RAM.

        That is for those whose residency is AUTO, from now on.
        """
        try:
            return attempt(key)
        except (OutOfMemory, OverBudget):
            if placement.residency != AUTO or key.residency == RAM:
                raise
        if key in self._sets:
            self._arriving = set(self._sets[key].arrays.values())  # these stay where they are
        self._unload(key)
        self._too_large.add((key.digest, key.device))
        return attempt(key._replace(residency=RAM))

    def _evicting(self, device: Device, files_key: Key, attempt: Callable[[], Made]) -> Made:
        """Do what allocates on a device for the set of these files, and evict others while it does not fit."""
        while True:
            try:
                return attempt()
            except OutOfMemory:
                if not self._evict(device, files_key):
                    raise

    def _evict(self, device: Device, files_key: Key) -> bool:
        """Free the compute buffer, or when there is none left the weights, of the set used least recently."""
        there = [(key, loaded) for key, loaded in self._sets.items() if key.device == device.name]
        for _, loaded in there:
            if loaded.graph:
                loaded.drop_graph()
                return True
        for key, loaded in there:
            if loaded.files_key != files_key and loaded.weight_bytes:
                self._unload(key)
                return True
        return False

    def _unload(self, key: Key) -> None:
        loaded = self._sets.pop(key, None)
        if loaded:
            loaded.drop_graph()
            self._collect()

    def _siblings(self, key: Key) -> dict[Key, LoadedWeights]:
        """The other sets of the same files that are loaded alike: one model with other patches."""
        files_key = self._sets[key].files_key
        return {other: each for other, each in self._sets.items() if other != key and each.files_key == files_key}

    def _unload_siblings(self, key: Key) -> None:
        """Unload what a new set of patches takes the place of; a client that still wants it loads it again."""
        if self._sets[key].arrays:
            for other, loaded in self._siblings(key).items():
                if loaded.arrays:
                    self._sets.pop(other).drop_graph()

    def _collect(self) -> None:
        """Free files and arrays that no loaded set uses."""
        used = {loaded.files_key for loaded in self._sets.values()}
        for key in [key for key in self._files if key not in used]:
            self._files.pop(key).free()
        for name, arrays in self._arrays.items():
            there = [loaded for key, loaded in self._sets.items() if key.device == name]
            arrays.keep(self._arriving.union(*(loaded.arrays.values() for loaded in there)))


def _check_budget(weights: WeightSet, key: Key) -> None:
    weight_bytes = sum(parameter.weight_bytes for parameter in weights.parameters.values())
    if weight_bytes > key.budget:
        raise OverBudget(weights.name, key.device, Budget(key.budget, weight_bytes), 0, 0)
