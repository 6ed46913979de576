"""Builds a program into a ggml graph on one device: checks and allocates it, uploads constants, cuts segments."""

from __future__ import annotations

import ctypes
from bisect import bisect_right
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from ...errors import OutOfMemory, RunnerError
from ...ggml_types import LAYOUTS
from ...lru import LRU
from ...placement import CPU
from ...program import Program, Tensor
from ...program.ops import flops, is_view, parameters_of
from ...program.tensor import ne_of, row_text
from ...wire.turn import NO_TURN
from ..device.buffers import Allocation, Budget, OverBudget, allocate, describe, device_bytes, require
from ..device.devices import Device
from ..ggml_binding import context, ggml
from ..weight_memory.streamed import Stream, Uses, plan, stops
from .call import Call, OperationFault
from .operations import BUILDERS
from .segments import cuts, layout_is_known, segments_of
from .sources import at_binding_offsets, f16_as_f32

_CONSTANT_TYPES = {"float32": "F32", "float16": "F16", "int32": "I32"}
_FLAG_INPUT, _FLAG_OUTPUT = 1, 2  # enum ggml_tensor_flag


class ProgramFault(RunnerError):
    """A program that contradicts itself, its weights or its device; the message names the operation."""


@dataclass(frozen=True)
class Needs:
    """The needs of a program besides its constants: bytes of the compute buffer and of the CPU backend's scratch.

    uses: its streamed weights, and the first and last segment that compute with each.
    """

    compute: int
    work: int
    segments: int
    uses: Uses


@dataclass(frozen=True)
class GraphWeights:
    """The weights that a program computes with, on one device."""

    device: Device
    tensor: Callable[[str], Any]  # by name; raises RunnerError for an unknown one
    streamed: Mapping[str, Any] = field(default_factory=dict)  # tensors without memory of their own, by name
    fill: Callable[[str], None] = lambda _name: None  # writes a streamed weight where its tensor is by then
    repacked_bytes: int = 0

    def key(self) -> Hashable:
        """All that a program's needs hang on besides the program."""
        device = self.device
        return device.name, device.description, device.traits, self.repacked_bytes, frozenset(self.streamed)


class ProgramCache:
    """Parsed programs by digest, and their needs by GraphWeights.key, so that these are found out once."""

    def __init__(self, capacity: int) -> None:
        """capacity: programs that are kept."""
        self._known: LRU[str, tuple[Program, dict[Hashable, Needs]]] = LRU(capacity)

    def parsed(self, digest: str, serialised: bytes) -> tuple[Program, dict[Hashable, Needs]]:
        """A program and its needs so far; raises what Program.from_bytes does."""
        return self._known.get(digest) or self._known.put(digest, (Program.from_bytes(serialised), {}))


class Graph:
    """A program ready to run: `inputs` and `outputs` as ggml tensors, `segments` as (graph, fraction done after it)."""

    def __init__(
        self, name: str, program: Program, weights: GraphWeights, budget: Budget | None = None,
        known: dict[Hashable, Needs] | None = None,
    ) -> None:  # fmt: skip
        """budget: None means what is free. known: needs of the program, with which it is not built anew to be allocated
        on a device that only counts.

        Raises ProgramFault, OutOfMemory, and OverBudget where the budget is too small; then nothing is held.
        """
        self.name = name  # of the model, for messages
        self.device = weights.device
        self.stream: Stream | None = None
        self._weights = weights
        self.compute_bytes = 0  # of the compute buffer
        self.work_bytes = 0  # that the CPU backend needs beside it
        self.constants: Allocation | None = None
        self.inputs: dict[str, Any] = {}
        self.kept = program.kept_inputs  # inputs whose memory nothing else takes
        self.turn = NO_TURN  # the run that has left what they hold
        self.row_of_node: list[int] = []  # of the program's table; -1 for a node that only names memory
        self.row_limits: dict[str, int] = {}  # inputs that pick rows of a table, and how many rows it has
        self._allocator: Any = None
        self._context: Any = None
        try:
            self._build(program, budget, known)
        except BaseException:
            self.free()
            raise

    def free(self) -> None:
        """Give back the compute buffer, the constants and what streamed weights pass through."""
        if self.stream:
            self.stream.free()
            self.stream = None
        if self._allocator:
            ggml.ggml_gallocr_free(self._allocator)
            self._allocator = None
        if self._context:
            ggml.ggml_free(self._context)
            self._context = None
        if self.constants:
            self.constants.free()
            self.constants = None
        self.device.freed(self.compute_bytes)
        self.compute_bytes = 0

    @property
    def constant_bytes(self) -> int:
        """Device memory of the constants."""
        return self.constants.nbytes if self.constants else 0

    @property
    def staging_bytes(self) -> int:
        """Device memory of streamed weights."""
        return self.stream.weight_bytes if self.stream else 0

    def _build(self, program: Program, budget: Budget | None, known: dict[Hashable, Needs] | None) -> None:
        self.constants = self._place_constants(program)
        graph, needs = None, None if known is None else known.get(self._weights.key())
        if needs is None:
            graph, needs = self._connect(program)
            if known is not None:
                known[self._weights.key()] = needs
        self._allocate(graph, needs, budget)

    def _connect(self, program: Program) -> tuple[Any, Needs]:
        """The operations as a ggml graph that is not allocated yet."""
        rows = program.tensors
        nodes = 3 * len(rows) + 16  # an operation may take two more of its own
        self._context = context(nodes, nodes)
        graph = ggml.ggml_new_graph_custom(self._context, nodes, False)
        whole, known = graph.contents, layout_is_known(graph)
        tensors: list[Any] = []
        amounts: list[float] = []  # arithmetic of each node
        uses: dict[str, tuple[int, int]] = {}  # streamed weights, and the first and last node that compute with one
        for index, row in enumerate(rows):
            try:
                tensor = self._leaf(row) if row.kind != "op" else self._operation(row, rows, tensors)
            except OperationFault as fault:
                raise ProgramFault(f"{self.name}: operation {index}, {row_text(row)}, is not valid: {fault}") from fault
            tensors.append(tensor)
            ggml.ggml_build_forward_expand(graph, tensor)
            if row.kind == "op" and not is_view(row):
                _note_uses(uses, row, rows, self._weights.streamed, max(0, whole.n_nodes - 1) if known else 0)
            if known and (new := whole.n_nodes - len(amounts)):
                amounts += [0.0] * (new - 1) + [flops(row, [rows[source] for source in row.sources])]
                self.row_of_node += [-1 if is_view(row) else index] * new
        self.outputs = [_output(program, number, tensors) for number in range(len(program.outputs))]
        self.row_limits = _row_limits(rows)
        parts = (
            cuts(amounts, self.device.largest_segment, stops(uses, self._sizes(uses), len(amounts))) if known else []
        )
        self.segments = segments_of(whole, parts) if known else [(whole, 1.0)]
        ends = [end for end, _ in parts]
        by_segment = {name: (bisect_right(ends, a), bisect_right(ends, b)) for name, (a, b) in uses.items()}
        self._allocator = ggml.ggml_gallocr_new(self.device.buffer_type)
        size = self._measured(graph, [self._weights.streamed[name] for name in uses])
        on_cpu = self.device.type == CPU
        work = ggml.ggml_graph_plan(graph, self.device.limits.threads, None).work_size if on_cpu else 0
        return graph, Needs(size, work, len(self.segments), by_segment)

    def _leaf(self, row: Tensor) -> Any:
        if row.kind == "input":
            if row.type not in ("F32", "I32"):
                raise OperationFault(f"an input of type {row.type}")
            made = ggml.ggml_new_tensor(self._context, LAYOUTS[row.type].number, 4, (ctypes.c_int64 * 4)(*row.ne))
            made.contents.flags |= _FLAG_INPUT | (_FLAG_OUTPUT if row.name in self.kept else 0)
            self.inputs[row.name] = made
            return made
        if row.kind == "constant":
            assert self.constants is not None
            found = self.constants.tensors[row.name]
        else:
            found = self._weights.tensor(row.name)
        _check_result(row, found)
        return found

    def _operation(self, row: Tensor, rows: tuple[Tensor, ...], tensors: list[Any]) -> Any:
        declared, sources = [rows[i] for i in row.sources], [tensors[i] for i in row.sources]
        try:
            parameters = parameters_of(row.name, row.parameters)
            call = Call(self._context, row, parameters, declared, sources)
            if self.device.traits.f16_as_f32:
                call = f16_as_f32(call)
            made = BUILDERS[row.name](call if self.device.type == "CPU" else at_binding_offsets(call))
        except (TypeError, ctypes.ArgumentError) as error:  # a number that ggml's call cannot hold
            raise OperationFault(f"its parameters {row.parameters} do not fit: {error}") from error
        _check_result(row, made)
        if not is_view(row) and not self.device.supports(made):
            taken = ", ".join(f"{s.type}{list(s.ne)}" for s in declared)
            raise OperationFault(f"{self.device.name} ({self.device.description}) cannot compute it for {taken}")
        return made

    def _place_constants(self, program: Program) -> Allocation:
        allocation = _describe_constants(self.device, program.constants)
        try:
            allocate(allocation, list(program.constants), f"the constants of {self.name}")
        except BaseException:
            allocation.free()
            raise
        for key, array in program.constants.items():
            self.device.write(allocation.tensors[key], array)
        return allocation

    def _allocate(self, graph: Any, needs: Needs, budget: Budget | None) -> None:
        label, size = f"the compute buffer of {self.name}", needs.compute
        streamed = {name: self._weights.streamed[name] for name in needs.uses}
        sizes = self._sizes(needs.uses)
        computing = size + self.constant_bytes
        planned = plan(needs.uses, sizes, needs.segments, None if budget is None else budget.headroom - computing)
        if budget and computing + planned.nbytes > budget.headroom:
            raise OverBudget(self.name, self.device.name, budget, computing, planned.nbytes)
        if streamed:
            name = f"the weights of {self.name} that compute at one time"
            self.stream = Stream(self.device, planned, streamed, self._weights.fill, name)
        require(self.device, label, size)
        if not self.device.place_graph(self._allocator, graph):
            raise OutOfMemory(self.device.name, f"{label} (refused by the driver)", size, self.device.memory()[0])
        self.compute_bytes, self.work_bytes = size, needs.work
        self.device.hold(size)

    def _sizes(self, names: Collection[str]) -> dict[str, int]:
        """Bytes of streamed weights on the device."""
        return {name: device_bytes(self.device.buffer_type, self._weights.streamed[name]) for name in names}

    def _measured(self, graph: Any, streamed: Collection[Any]) -> int:
        """Bytes of the compute buffer; nothing is allocated."""
        size = ctypes.c_size_t()
        for tensor in streamed:
            tensor.contents.data = 1  # as good as any: what has an address needs no place in the buffer
        ggml.ggml_gallocr_reserve_n_size(self._allocator, graph, None, None, ctypes.byref(size))
        for tensor in streamed:
            tensor.contents.data = None
        return size.value


def _note_uses(
    uses: dict[str, tuple[int, int]], row: Tensor, rows: Sequence[Tensor], streamed: Collection[str], node: int
) -> None:
    for source in row.sources:
        root = rows[source]
        while is_view(root):
            root = rows[root.sources[0]]
        if root.kind == "weight" and root.name in streamed:
            uses[root.name] = uses.get(root.name, (node, node))[0], node


def _describe_constants(device: Device, arrays: Mapping[str, np.ndarray]) -> Allocation:
    """Constants of a program as tensors without memory; raises ProgramFault for a type they cannot have."""
    for key, array in arrays.items():
        if str(array.dtype) not in _CONSTANT_TYPES or 0 in array.shape:
            raise ProgramFault(
                f"the constant {key} is {array.dtype}{list(array.shape)}; float32, float16 and int32 can be"
            )
    return describe(device, ((key, _CONSTANT_TYPES[str(a.dtype)], ne_of(a.shape)) for key, a in arrays.items()))


def _check_result(row: Tensor, tensor: Any) -> None:
    made = tensor.contents
    found, number = tuple(made.ne), made.type
    layout = LAYOUTS.get(row.type)
    if found != row.ne or layout is None or layout.number != number:
        names = {layout.number: name for name, layout in LAYOUTS.items()}
        raise OperationFault(f"it is {names.get(number, number)}{list(found)} where the program says {row_text(row)}")


def _output(program: Program, number: int, tensors: list[Any]) -> Any:
    """Mark an output, and the tensor that it is a view of, so that nothing overwrites them."""
    output = program.outputs[number]
    row, tensor = program.tensors[output.tensor], tensors[output.tensor]
    if row.type != "F32" or prod(output.shape) != prod(row.ne) or not ggml.ggml_is_contiguous(tensor):
        raise ProgramFault(f"output {number} of shape {list(output.shape)} is not contiguous F32: {row_text(row)}")
    for marked in (tensor, tensor.contents.view_src):
        if marked and not marked.contents.data:  # weights and constants stay anyway
            marked.contents.flags |= _FLAG_OUTPUT
    return tensor


def _row_limits(rows: tuple[Tensor, ...]) -> dict[str, int]:
    """The inputs that are row numbers of a table, and the rows it has: ggml does not check them."""
    limits: dict[str, int] = {}
    for row in rows:
        if row.kind == "op" and row.name in ("get_rows", "set_rows"):
            picked = rows[row.sources[-1]]
            while is_view(picked) or (picked.kind == "op" and picked.name == "cont"):
                picked = rows[picked.sources[0]]
            if picked.kind == "input":
                limits[picked.name] = min(limits.get(picked.name, 1 << 62), rows[row.sources[0]].ne[1])
    return limits
