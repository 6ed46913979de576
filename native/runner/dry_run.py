"""Dry runs: requests done by the runner's own code on devices that count memory, with weights of absent files."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from math import prod

import numpy as np

from ..errors import Interrupted, IsInterrupted, Missing, RunnerError
from ..ggml_types import LAYOUTS, tensor_bytes
from ..lru import LRU
from ..program import Program
from ..program.ops import flops, is_view
from ..wire.failures import failure
from ..wire.messages import (
    DryRun,
    DryRunRequest,
    DryRunStep,
    Estimate,
    EstimateRequest,
    ExternalModel,
    LoadRequest,
    ReleaseRequest,
    RunRequest,
    UnloadRequest,
    WeightsDescription,
)
from .device.buffers import describe, device_bytes, require
from .device.counting import CountingDevice, counting_devices
from .device.devices import Device
from .graph.graph import Graph, GraphWeights, ProgramCache
from .store import Store
from .weight_memory.files import AbsentFiles


class DryRunCache:
    """All that dry runs and estimates remember of programs, so that a plan made before is made at once."""

    def __init__(self) -> None:
        self.programs = ProgramCache(16)
        self.estimates: LRU[Hashable, Estimate] = LRU(64)  # but for what the device has


def dry_run(
    real: Store, cache: DryRunCache, request: DryRunRequest, interrupted: IsInterrupted = lambda: False
) -> DryRun:
    """Counts what each step after the other takes of empty devices, until one cannot be done.

    real: whose devices and programs they are about. Devices that compute in RAM take of the CPU's capacity too.
    Raises Missing for programs that the client has not sent, and Interrupted.
    """
    _require_programs(real, request)
    devices = counting_devices(real.devices, request.capacity, request.foreign)
    store = Store(devices, AbsentFiles, real.programs, cache.programs)
    external = _External(store)
    done: list[DryRunStep] = []
    try:
        for step in request.steps:
            if interrupted():
                raise Interrupted("the dry run was interrupted")
            for device in devices.all():
                device.begin_request()
            measured = None
            try:
                if isinstance(step, ExternalModel):
                    external.come(step)
                elif isinstance(step, EstimateRequest):
                    measured = estimate(store, cache, step)
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


def _require_programs(real: Store, request: DryRunRequest) -> None:
    """Keep all programs of the steps, however large they are together; raises Missing for those that are not there."""
    programs = {step.program: None for step in request.steps if isinstance(step, RunRequest | EstimateRequest)}
    real.programs.keep(programs)
    missing = tuple(digest for digest in programs if real.programs.get(digest) is None)
    if missing:
        raise Missing("program", missing)


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


def _do(
    store: Store, step: LoadRequest | RunRequest | ReleaseRequest | UnloadRequest,
    sets: Mapping[str, WeightsDescription],
) -> None:  # fmt: skip
    """Do a step, with all that the client would send where it is missing."""
    if isinstance(step, ReleaseRequest):
        store.release(step)
        return
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
    """Fill every array of a weight set with bytes that are never written."""
    arrays = store.arrays(store.devices.find(device))
    for array in described.arrays:
        layout = LAYOUTS[array.type]
        arrays.fill(array.digest, np.empty(prod(array.shape) // layout.block * layout.nbytes, np.uint8))


def _ignore(_done: int, _total: int) -> None:
    """Progress for nobody to see."""


def _never() -> bool:
    return False


_UNLIMITED = 1 << 62  # bytes


def estimate(store: Store, cache: DryRunCache, request: EstimateRequest) -> Estimate:
    """Estimates the memory and arithmetic that a program takes on a device.

    The headroom is what is free and what idle programs give back: other models' weights stay for a larger tile.
    Raises Missing, ProgramFault.
    """
    device = store.devices.find(request.placement.device)
    key = request.program, device.name, device.description, device.traits
    taken = cache.estimates.get(key)
    if taken is None:
        taken = cache.estimates.put(key, _taken(request.name, store.parsed(request.program)[0], device))
    there = [loaded for key, loaded in store.loaded() if key.device == device.name]
    idle = [loaded.graph.compute_bytes + loaded.graph.constant_bytes for loaded in there if loaded.graph]
    return replace(
        taken,
        headroom=device.memory()[0] + sum(idle),
        largest_buffer=device.largest_buffer,
        operation_limit=device.traits.largest_operation,
    )


def _taken(name: str, program: Program, device: Device) -> Estimate:
    rows = program.tensors
    counting_device = CountingDevice(device, _UNLIMITED)
    weights = describe(counting_device, ((row.name, row.type, row.ne) for row in rows if row.kind == "weight"))
    for tensor in weights.tensors.values():
        counting_device.put(tensor, None, 0)
    try:
        graph = Graph(name, program, GraphWeights(counting_device, weights.tensors.__getitem__))
        made = [row for row in rows if row.kind == "input" or (row.kind == "op" and not is_view(row))]
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
