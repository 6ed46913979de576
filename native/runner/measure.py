"""What a program takes on a device, to the byte, with nothing allocated."""

from __future__ import annotations

from typing import Any

from ..program import Program
from ..weights.types import tensor_bytes
from .budget import Budget
from .buffers import Placed, describe, device_bytes
from .devices import Device
from .graph import VIEWS, Graph, describe_constants
from .library import ggml
from .limits import Limits
from .streaming import Uses
from .weights import FileWeights
from .work import flops

_SOMEWHERE = 1 << 12  # an address that nobody reads: ggml's allocator leaves alone what has one


class Measured(Graph):
    """A program as it would be built, checked, with no memory behind it; cannot be run.

    compute: bytes of its compute buffer. largest_tensor: bytes. largest_operation: floating-point operations.
    """

    def __init__(self, name: str, program: Program, device: Device) -> None:
        rows = program.tensors
        self.compute = self.constants_size = 0
        weights = describe(device, ((row.name, row.type, row.ne) for row in rows if row.kind == "weight"))
        _put_somewhere(weights)
        try:
            super().__init__(name, program, weights.tensors.__getitem__, _Described(weights), Limits(device.threads))
        finally:
            weights.free()
        made = [row for row in rows if row.kind == "input" or (row.kind == "op" and row.name not in VIEWS)]
        self.largest_tensor = max((tensor_bytes(row.type, row.ne) for row in made), default=0)
        self.largest_operation = max((flops(row, [rows[each] for each in row.sources]) for row in made), default=0.0)

    def _place_constants(self, program: Program, largest: int | None) -> Placed:
        constants = describe_constants(self.device, program.constants)
        _put_somewhere(constants)
        buffer_type = self.device.buffer_type
        self.constants_size = sum(device_bytes(buffer_type, tensor) for tensor in constants.tensors.values())
        return constants

    def _allocate(self, graph: Any, uses: Uses, largest: int | None, budget: Budget | None) -> None:
        self._allocator = ggml.ggml_gallocr_new(self.device.buffer_type)
        self.compute = self._measured(graph, ())
        if self.device.type == "CPU":
            self.work_bytes = ggml.ggml_graph_plan(graph, self.device.threads, None).work_size


class _Described(FileWeights):
    """The weights of a program, in no file."""

    def __init__(self, placed: Placed) -> None:
        self.placed = placed
        self.streamed = {}


def _put_somewhere(placed: Placed) -> None:
    for tensor in placed.tensors.values():
        tensor.contents.data = _SOMEWHERE
