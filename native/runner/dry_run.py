"""Requests done with nothing behind them: the same decisions to the byte, but no memory, no file and no computing.

Everything that touches memory goes through a Device and a FileWeights; here both only keep account.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, ClassVar

import numpy as np

from ..errors import Missing, RunnerError
from ..ggml_types import LAYOUTS, tensor_bytes
from ..lru import LRU
from ..placement import CPU
from ..program import Program
from ..program.ops import flops
from ..weights.weight_set import Parameter
from ..wire.failures import failure
from ..wire.messages import (
    DeviceInfo,
    DryRun,
    DryRunRequest,
    DryRunStep,
    Estimate,
    EstimateRequest,
    ExternalModel,
    LoadRequest,
    RunRequest,
    UnloadRequest,
    WeightsDescription,
)
from .device.buffers import Allocation, describe, device_bytes, require
from .device.counting import CountingDevice
from .device.devices import Device, Devices, Limits
from .device.quirks import is_software
from .graph.graph import VIEWS, Graph, Needs
from .store import Store
from .weight_memory.repacked import Repacked, Source
from .weight_memory.resident import FileWeights


class CountedCopies(Repacked):
    """Repacked copies that are never filled."""

    def fill(self, tensor: Any, source: Source) -> None:
        """Nothing."""


class CountedWeights(FileWeights):
    """The weights of files that are not opened."""

    copies = CountedCopies

    def open(self) -> None:
        """Nothing."""

    def point(self, parameter: Parameter) -> None:
        """As a place in its file."""
        self.allocation.device.put(self.allocation.tensors[parameter.name], None, 0)

    def upload(self, parameter: Parameter, advance: Callable[[int], None], interrupted: Callable[[], bool]) -> None:
        """Nothing."""

    def check_files(self) -> None:
        """Nothing: the client has read their headers."""


class CountedGraph(Graph):
    """A program whose needs may be known from before."""

    def __init__(self, known: dict[Hashable, Needs], *arguments: Any) -> None:
        """arguments: as Graph."""
        self._known = known
        super().__init__(*arguments)

    def _connect(self, program: Program, weight: Callable[[str], Any], limits: Limits) -> tuple[Any, Needs]:
        device, files = self.device, self._files
        key = device.name, device.description, device.traits, files.repacked.nbytes, frozenset(files.streamed)
        if key in self._known:
            return None, self._known[key]
        graph, self._known[key] = super()._connect(program, weight, limits)
        return graph, self._known[key]


class CountedStore(Store):
    """Weight sets of which nothing is loaded; programs and their needs are remembered."""

    files_type = CountedWeights
    _parsed: ClassVar[LRU[str, tuple[Program, dict[Hashable, Needs]]]] = LRU(16)  # by digest

    def parsed(self, digest: str) -> Program:
        """As Store."""
        serialised = self.serialised(digest)
        return (self._parsed.get(digest) or self._parsed.put(digest, (Program.from_bytes(serialised), {})))[0]

    def new_graph(self, digest: str, *arguments: Any) -> Graph:
        """As Store."""
        known = self._parsed.get(digest)
        assert known is not None
        return CountedGraph(known[1], *arguments)


class CountingDevices(Devices):
    """Stand-ins for the devices that have a capacity; those that are imagined need not be there."""

    def __init__(self, devices: Devices, capacity: Mapping[str, int], foreign: Sequence[DeviceInfo]) -> None:
        """foreign: devices of another machine."""
        infos = {each.name: each for each in foreign}
        made = [_counting_device(devices, name, nbytes, infos.get(name)) for name, nbytes in capacity.items()]
        in_ram = [device for device in made if _takes_ram(device)]
        for device in in_ram if CPU in capacity else ():
            device.in_ram, device.ram = in_ram, capacity[CPU]
        self._all = [*made]

    def all(self) -> list[Device]:
        """As Devices."""
        return list(self._all or ())

    def known(self) -> list[Device]:
        """As Devices."""
        return self.all()


def _counting_device(devices: Devices, name: str, nbytes: int, info: DeviceInfo | None) -> CountingDevice:
    """For a device of another machine, one that is counted on a device of its driver, or on the CPU."""
    if info is None:
        return CountingDevice(devices.find(name), nbytes)
    kind = name.rstrip("0123456789")
    alike = [device for device in devices.all() if device.name.rstrip("0123456789") == kind]
    made = CountingDevice((alike or [devices.find(CPU)])[0], nbytes)
    made.become(info)
    return made


def _takes_ram(device: Device) -> bool:
    return device.type in (CPU, "IGPU") or is_software(device.description)


def dry_run(real: Store, limits: Limits, request: DryRunRequest) -> DryRun:
    """Counts what each step after the other takes of empty devices, until one cannot be done.

    real: whose devices and programs they are about. Devices that compute in RAM take of the CPU's capacity too.
    Raises Missing for programs that the client has not sent.
    """
    devices = CountingDevices(real.devices, request.capacity, request.foreign)
    store = CountedStore(devices, limits, real.programs)
    external = _External(store)
    done: list[DryRunStep] = []
    try:
        for step in request.steps:
            for device in devices.all():
                device.begin_request()
            measured = None
            try:
                if isinstance(step, ExternalModel):
                    external.come(step)
                elif isinstance(step, EstimateRequest):
                    measured = estimate(store, limits, step)
                else:
                    external.yield_memory()
                    _do(store, step, request.weights)
            except Missing:
                raise
            except RunnerError as error:
                return DryRun(tuple(done), failure(error))
            held = {device.name: device.held for device in devices.all()}
            peak = {device.name: device.request_peak for device in devices.all()}
            done.append(DryRunStep(held, peak, store.memory(), external.there, measured))
    finally:
        store.clear()
    return DryRun(tuple(done))


class _External:
    """The one model in another process that is there, if any."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: Mapping[str, int] = {}
        self._kept = False

    @property
    def there(self) -> bool:
        """Whether it takes anything."""
        return bool(self._held)

    def come(self, model: ExternalModel) -> None:
        """Take memory, for which others are evicted; raises OutOfMemory."""
        self._go()
        wanted = {device: sum(shares.values()) for device, shares in model.taken.items()}
        for device_name, nbytes in wanted.items():
            device = self._store.devices.find(device_name)
            while device.memory()[0] < nbytes and self._store.evict_oldest(device):
                pass
            require(device, f"the language model {model.name}", nbytes)
        for device_name, nbytes in wanted.items():
            self._store.devices.find(device_name).hold(nbytes)
        self._held, self._kept = wanted, model.kept

    def yield_memory(self) -> None:
        """Go, unless it is kept."""
        if not self._kept:
            self._go()

    def _go(self) -> None:
        for device_name, nbytes in self._held.items():
            self._store.devices.find(device_name).freed(nbytes)
        self._held = {}


def _do(store: Store, step: LoadRequest | RunRequest | UnloadRequest, sets: Mapping[str, WeightsDescription]) -> None:
    """Do a step, with all that the client would send where it is missing."""
    if isinstance(step, UnloadRequest):
        store.unload(step)
        return
    described = sets[step.digest]
    while True:
        try:
            if isinstance(step, RunRequest):
                store.graph(step, _ignore, _never)
            else:
                store.load(replace(step, weights=described), _ignore, _never)
            return
        except Missing as missing:
            if missing.what == "program":
                raise
            if missing.what == "arrays":
                _fill(store, step.placement.device, described)
            else:
                _do(store, LoadRequest(step.digest, step.placement), sets)


def _fill(store: Store, device: str, described: WeightsDescription) -> None:
    """Give every array of a set its content, which is none."""
    arrays = store.arrays(store.devices.find(device))
    for array in described.arrays:
        layout = LAYOUTS[array.type]
        arrays.fill(array.digest, np.empty(prod(array.shape) // layout.block * layout.nbytes, np.uint8))


def _ignore(_done: int, _total: int) -> None:
    """Progress that is told to nobody."""


def _never() -> bool:
    return False


_UNLIMITED = 1 << 62
_estimates: LRU[Hashable, Estimate] = LRU(64)  # but for what the device has


def estimate(store: Store, limits: Limits, request: EstimateRequest) -> Estimate:
    """Estimates the memory and arithmetic that a program takes on a device.

    The headroom is what is free and what idle programs give back: other models' weights stay for a larger tile.
    Raises Missing, ProgramFault.
    """
    device = store.devices.find(request.placement.device)
    key = request.program, device.name, device.description, device.traits
    taken = _estimates.get(key)
    if taken is None:
        taken = _estimates.put(key, _taken(request.name, store.parsed(request.program), device))
    there = [loaded for key, loaded in store.loaded() if key.device == device.name]
    idle = [loaded.graph.compute_bytes + loaded.graph.constant_bytes for loaded in there if loaded.graph]
    return replace(
        taken,
        headroom=device.memory()[0] + sum(idle),
        largest_buffer=min(device.largest_buffer, limits.largest_buffer or 1 << 62),
        operation_limit=device.traits.largest_operation,
    )


def _taken(name: str, program: Program, device: Device) -> Estimate:
    rows = program.tensors
    counting_device = CountingDevice(device, _UNLIMITED)
    weights = describe(counting_device, ((row.name, row.type, row.ne) for row in rows if row.kind == "weight"))
    for tensor in weights.tensors.values():
        counting_device.put(tensor, None, 0)
    try:
        graph = Graph(name, program, weights.tensors.__getitem__, _Described(weights), Limits(device.threads))
        made = [row for row in rows if row.kind == "input" or (row.kind == "op" and row.name not in VIEWS)]
        taken = Estimate(
            compute=graph.compute_bytes,
            constants=graph.constant_bytes,
            work=graph.work_bytes,
            weight_bytes=sum(device_bytes(device.buffer_type, tensor) for tensor in weights.tensors.values()),
            largest_tensor=max((tensor_bytes(row.type, row.ne) for row in made), default=0),
            largest_operation=max((flops(row, [rows[each] for each in row.sources]) for row in made), default=0.0),
            headroom=0,
            largest_buffer=0,
            operation_limit=0.0,
        )
        graph.free()
        return taken
    finally:
        weights.free()


class _Described(FileWeights):
    """The weights of a program, in no file."""

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        self.streamed = {}
