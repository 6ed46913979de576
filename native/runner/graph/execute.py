"""Runs a built graph: copies inputs from shared memory, computes the segments, copies the results back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import Interrupted, Missing, RunnerError
from ...output_check import check_of
from ...wire.messages import OutputCheck
from ...wire.shared_memory import layout
from ...wire.turn import NO_TURN, Turn
from ..ggml_binding import ggml, pointer
from .graph import Graph, ProgramFault

_ABORTED = 1  # enum ggml_status


def execute(
    graph: Graph,
    arena: np.ndarray,
    inputs: Mapping[str, tuple[int, int]],
    interrupted: Callable[[], bool],
    progress: Callable[[float], None],
    turn: Turn = NO_TURN,
) -> tuple[OutputCheck, ...]:
    """Run `graph` on the `inputs` (offset, bytes) in `arena` and write the outputs there, one after the other.

    turn: which run of a series it is. Returns a check of each output. Raises Interrupted, ProgramFault, RunnerError,
    and Missing for inputs that are left out although the turn before is not what is held.
    """
    _require_kept(graph, inputs, turn)
    graph.turn = NO_TURN  # until it is done
    set_inputs(graph, arena, inputs)
    for number, (segment, fraction) in enumerate(graph.segments):
        if graph.stream:
            graph.stream.wait(number)
        compute(graph, segment, interrupted)
        if graph.stream:
            graph.stream.leave(number)
        progress(fraction)
    checks = []
    sizes = [ggml.ggml_nbytes(tensor) for tensor in graph.outputs]
    for tensor, nbytes, offset in zip(graph.outputs, sizes, layout(sizes)[0], strict=True):
        data = arena[offset : offset + nbytes]
        ggml.ggml_backend_tensor_get(tensor, pointer(data), 0, nbytes)
        checks.append(check_of(data.view(np.float32)))
    graph.turn = turn
    return tuple(checks)


def _require_kept(graph: Graph, inputs: Collection[str], turn: Turn) -> None:
    """Raise Missing where kept inputs are left out, and another turn than the one before has left what they hold."""
    left_out = graph.kept - set(inputs)
    if left_out and (not turn.series or graph.turn != replace(turn, number=turn.number - 1)):
        raise Missing("inputs", tuple(sorted(left_out)))


def compute(graph: Graph, nodes: Any, interrupted: Callable[[], bool]) -> None:
    """Compute some nodes of the graph and wait for them; raises Interrupted and RunnerError."""
    if interrupted():
        raise Interrupted("the run was interrupted")
    status = graph.device.compute(nodes)
    if status == _ABORTED:
        raise Interrupted("the run was interrupted")
    if status != 0:
        name = ggml.ggml_status_to_string(status).decode()
        raise RunnerError(f"{graph.device.name} ({graph.device.description}) failed while computing: {name}")


def set_inputs(graph: Graph, arena: np.ndarray, inputs: Mapping[str, tuple[int, int]]) -> None:
    """Copy the inputs (offset, bytes) in `arena` to the device; raises ProgramFault where they do not fit."""
    if set(inputs) | graph.kept != set(graph.inputs):
        raise ProgramFault(f"the program takes the inputs {sorted(graph.inputs)}, not {sorted(inputs)}")
    for name, (offset, nbytes) in inputs.items():
        tensor = graph.inputs[name]
        expected = ggml.ggml_nbytes(tensor)
        if nbytes != expected or offset + nbytes > arena.nbytes:
            raise ProgramFault(f"the input {name} has {nbytes} bytes where the program takes {expected}")
        data = arena[offset : offset + nbytes]
        if name in graph.row_limits:
            rows = data.view(np.int32)
            if rows.min() < 0 or rows.max() >= graph.row_limits[name]:
                raise ProgramFault(
                    f"the input {name} picks rows {rows.min()} to {rows.max()} of a table of {graph.row_limits[name]}"
                )
        ggml.ggml_backend_tensor_set(tensor, pointer(data), 0, nbytes)
