"""What a program takes on a device, to the byte, with nothing allocated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from ..program import Program
from ..weights.types import tensor_bytes
from .buffers import Placed, describe, device_bytes
from .devices import Device
from .graph import VIEWS, Graph
from .holdings import Holdings
from .limits import Limits
from .protocol import Header
from .stand_in import StandIn
from .weights import FileWeights
from .work import flops

_UNLIMITED = 1 << 62
_KEPT = 64

_known: OrderedDict[Hashable, dict[str, float]] = OrderedDict()


def measurement(holdings: Holdings, limits: Limits, request: Header) -> dict[str, Any]:
    """What a request's program takes on its device, as the client's Measurement has it.

    The room is what is free and what idle programs give back: other models' weights stay for a larger tile.
    Raises ProgramFault.
    """
    device = holdings.devices.find(request["device"])
    digest = request["program"]
    key = digest, device.name, device.description, device.traits
    if key not in _known:
        _known[key] = _taken(request["name"], holdings.models.parsed(digest, holdings.programs[digest]), device)
        if len(_known) > _KEPT:
            _known.popitem(last=False)
    taken = _known[key]
    there = [model for (_, place), model in holdings.models.all() if place.device == device.name]
    idle = [model.graph.compute_bytes + model.graph.constant_bytes for model in there if model.graph]
    return taken | {
        "room": device.memory()[0] + sum(idle),
        "largest_buffer": min(device.largest_buffer, limits.largest_buffer or 1 << 62),
        "operation_limit": device.traits.largest_operation,
    }


def _taken(name: str, program: Program, device: Device) -> dict[str, float]:
    rows = program.tensors
    stand_in = StandIn(device, _UNLIMITED)
    weights = describe(stand_in, ((row.name, row.type, row.ne) for row in rows if row.kind == "weight"))
    for tensor in weights.tensors.values():
        stand_in.put(tensor, None, 0)
    try:
        graph = Graph(name, program, weights.tensors.__getitem__, _Described(weights), Limits(device.threads))
        made = [row for row in rows if row.kind == "input" or (row.kind == "op" and row.name not in VIEWS)]
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

    def __init__(self, placed: Placed) -> None:
        self.placed = placed
        self.streamed = {}
