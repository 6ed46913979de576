"""Requests done with nothing behind them: the same decisions to the byte, but no memory, no file and no computing.

Everything that touches memory goes through a Device and a FileWeights; here both only keep account.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from math import prod
from typing import Any, ClassVar

import numpy as np

from ..errors import Missing, RequestError
from ..ggml_types import LAYOUTS, tensor_bytes
from ..program import Program
from ..program.ops import flops, is_view
from ..weights.weight_set import Parameter
from ..wire.frames import Header
from .device.buffers import Allocation, describe, device_bytes, require
from .device.counting import CountingDevice
from .device.devices import Device, Devices, Limits
from .device.quirks import Facts, is_software
from .graph.graph import Graph, Needs
from .store import Holdings, Models
from .weight_memory.repacked import Repacked, Source
from .weight_memory.resident import FileWeights

_KEPT = 16  # programs


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


class CountedStore(Models):
    """Models of which nothing is loaded; programs and their needs are remembered."""

    files_type = CountedWeights
    _programs: ClassVar[OrderedDict[str, tuple[Program, dict[Hashable, Needs]]]] = OrderedDict()  # by digest

    def parsed(self, digest: str, serialised: bytes) -> Program:
        """As Models."""
        if digest not in self._programs:
            self._programs[digest] = Program.from_bytes(serialised), {}
            if len(self._programs) > _KEPT:
                self._programs.popitem(last=False)
        self._programs.move_to_end(digest)
        return self._programs[digest][0]

    def graph(self, digest: str, *arguments: Any) -> Graph:
        """As Models."""
        return CountedGraph(self._programs[digest][1], *arguments)


class CountingDevices(Devices):
    """Stand-ins for the devices that have a capacity; those that are imagined need not be there."""

    def __init__(self, devices: Devices, capacity: Mapping[str, int], foreign: Sequence[Mapping[str, Any]]) -> None:
        """imagined: devices of another machine, as the client's DeviceInfo has them."""
        facts = {each["name"]: _facts(each) for each in foreign}
        made = [_counting_device(devices, name, nbytes, facts.get(name)) for name, nbytes in capacity.items()]
        in_ram = [device for device in made if _takes_ram(device)]
        for device in in_ram if "CPU" in capacity else ():
            device.in_ram, device.ram = in_ram, capacity["CPU"]
        self._all = [*made]

    def all(self) -> list[Device]:
        """As Devices."""
        return list(self._all or ())

    def known(self) -> list[Device]:
        """As Devices."""
        return self.all()


def _facts(foreign: Mapping[str, Any]) -> Facts:
    features = tuple(foreign["features"])
    return Facts(foreign["type"], foreign["description"], features, foreign["small_bar"], foreign["system"])


def _counting_device(devices: Devices, name: str, nbytes: int, facts: Facts | None) -> CountingDevice:
    """For an imagined device what stands in is one of the same kind of driver, if there is any, or the CPU."""
    if facts is None:
        return CountingDevice(devices.find(name), nbytes)
    kind = name.rstrip("0123456789")
    alike = [device for device in devices.all() if device.name.rstrip("0123456789") == kind]
    made = CountingDevice((alike or [devices.find("CPU")])[0], nbytes)
    made.become(facts, name)
    return made


def _takes_ram(device: Device) -> bool:
    return device.type in ("CPU", "IGPU") or is_software(device.description)


def dry_run(
    real: Holdings, limits: Limits, capacity: Mapping[str, int], foreign: Sequence[Mapping[str, Any]],
    steps: Sequence[Header],
) -> dict[str, Any]:  # fmt: skip
    """What each step leads to, one after the other on empty devices, until one cannot be done.

    real: whose devices and programs they are about. capacity: bytes of each device; those that compute in RAM take of
    the CPU's too. imagined: those of another machine. steps: requests to load, run, unload and measure, a run with what
    its load says too.
    Returns for each step the bytes held on each device, the most held during it, what each model holds at its end and
    what was measured; and where a step fails, its error. Raises Missing for programs that the client has not sent.
    """
    counting_devices = CountingDevices(real.devices, capacity, foreign)
    holdings = Holdings(counting_devices, CountedStore(limits), real.programs)
    external = _External(holdings)
    done: list[dict[str, Any]] = []
    try:
        for step in steps:
            for device in counting_devices.all():
                device.begin_request()
            measured = None
            try:
                if step["do"] == "external":
                    external.come(step["name"], step["taken"], step["kept"])
                elif step["do"] == "estimate":
                    measured = estimate(holdings, limits, step)
                else:
                    external.yield_memory()
                    _do(holdings, step)
            except Missing:
                raise
            except RequestError as error:
                return {"steps": done, "error": error.reply()}
            held = {device.name: [device.held, device.request_peak] for device in counting_devices.all()}
            done.append({"held": held, "models": holdings.report(), "external": external.there, "measured": measured})
    finally:
        for (digest, device_key), _ in list(holdings.models.all()):
            holdings.models.unload((digest, device_key))
    return {"steps": done}


class _External:
    """The one model in another process that is there, if any."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings
        self._taken: Mapping[str, int] = {}
        self._kept = False

    @property
    def there(self) -> bool:
        """Whether it takes anything."""
        return bool(self._taken)

    def come(self, name: str, taken: Mapping[str, int], kept: bool) -> None:
        """Take room, for which others go; raises OutOfMemory."""
        self._go()
        for device_name, nbytes in taken.items():
            device = self._holdings.devices.find(device_name)
            while device.memory()[0] < nbytes and self._holdings.models.evict_oldest(device):
                pass
            require(device, f"the language model {name}", nbytes)
        for device_name, nbytes in taken.items():
            self._holdings.devices.find(device_name).hold(nbytes)
        self._taken, self._kept = taken, kept

    def yield_memory(self) -> None:
        """Go, unless it is kept."""
        if not self._kept:
            self._go()

    def _go(self) -> None:
        for device_name, nbytes in self._taken.items():
            self._holdings.devices.find(device_name).freed(nbytes)
        self._taken = {}


def _do(holdings: Holdings, step: Header) -> None:
    if step["do"] == "unload":
        holdings.unload(step)
        return
    while True:
        try:
            if step["do"] == "run":
                holdings.graph(step)
            else:
                holdings.load(step, _ignore, _never)
            return
        except Missing as missing:
            what = missing.details["what"]
            if what == "program":
                raise
            if what == "arrays":
                _fill(holdings, step)
            else:
                _do(holdings, {**step, "do": "load"})


def _fill(holdings: Holdings, step: Header) -> None:
    """Give every array of a set its content, which is none."""
    arrays = holdings.models.arrays(holdings.devices.find(step["device"]))
    for _, digest, type_, shape in step["arrays"]:
        layout = LAYOUTS[type_]
        arrays.fill(digest, np.empty(prod(shape) // layout.block * layout.nbytes, np.uint8))


def _ignore(_done: int, _total: int) -> None:
    """Nobody watches."""


def _never() -> bool:
    return False


_UNLIMITED = 1 << 62
_KEPT_ESTIMATES = 64
_known: OrderedDict[Hashable, dict[str, float]] = OrderedDict()


def estimate(holdings: Holdings, limits: Limits, request: Header) -> dict[str, Any]:
    """What a request's program takes on its device, as the client's Estimate has it.

    The room is what is free and what idle programs give back: other models' weights stay for a larger tile.
    Raises ProgramFault.
    """
    device = holdings.devices.find(request["device"])
    digest = request["program"]
    key = digest, device.name, device.description, device.traits
    if key not in _known:
        _known[key] = _taken(request["name"], holdings.models.parsed(digest, holdings.programs[digest]), device)
        if len(_known) > _KEPT_ESTIMATES:
            _known.popitem(last=False)
    taken = _known[key]
    there = [model for (_, device_key), model in holdings.models.all() if device_key.device == device.name]
    idle = [model.graph.compute_bytes + model.graph.constant_bytes for model in there if model.graph]
    return taken | {
        "headroom": device.memory()[0] + sum(idle),
        "largest_buffer": min(device.largest_buffer, limits.largest_buffer or 1 << 62),
        "operation_limit": device.traits.largest_operation,
    }


def _taken(name: str, program: Program, device: Device) -> dict[str, float]:
    rows = program.tensors
    counting_device = CountingDevice(device, _UNLIMITED)
    weights = describe(counting_device, ((row.name, row.type, row.ne) for row in rows if row.kind == "weight"))
    for tensor in weights.tensors.values():
        counting_device.put(tensor, None, 0)
    try:
        graph = Graph(name, program, weights.tensors.__getitem__, _Described(weights), Limits(device.threads))
        made = [row for row in rows if row.kind == "input" or (row.kind == "op" and not is_view(row))]
        taken = {
            "compute": graph.compute_bytes,
            "constants": graph.constant_bytes,
            "work": graph.work_bytes,
            "weights": sum(device_bytes(device.buffer_type, tensor) for tensor in weights.tensors.values()),
            "largest_tensor": max((tensor_bytes(row.type, row.ne) for row in made), default=0),
            "largest_operation": max((flops(row, [rows[each] for each in row.sources]) for row in made), default=0.0),
        }
        graph.free()
        return taken
    finally:
        weights.free()


class _Described(FileWeights):
    """The weights of a program, in no file."""

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        self.streamed = {}
