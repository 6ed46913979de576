"""Tensors in shared memory: a run's inputs one after the other and then its outputs in their place, or an array."""

from __future__ import annotations

from math import prod

import numpy as np

from ..errors import RunnerError
from ..program import Program, Tensor
from ..weights import content
from ..wire.messages import ArrayRequest, RunRequest
from ..wire.shared_memory import Arena, layout
from ..wire.turn import NO_TURN, Turn
from .load_request import Supplies

_TYPES = {"F32": np.dtype(np.float32), "I32": np.dtype(np.int32)}


def write_inputs(
    supplies: Supplies, program: Program, inputs: dict[str, np.ndarray], arena: Arena, turn: Turn = NO_TURN
) -> RunRequest:
    """Copy `inputs` (torch order) into the arena, made large enough for the outputs too, and request a run on them.

    turn: of a series, after the first of which inputs that the program writes into are left out, unless the runner has
    asked for them. Raises RunnerError when they are not what the program takes.
    """
    declared = {tensor.name: tensor for tensor in program.tensors if tensor.kind == "input"}
    if set(declared) != set(inputs):
        raise RunnerError(f"the program takes the inputs {sorted(declared)}, not {sorted(inputs)}")
    for name, array in inputs.items():
        _check(declared[name], array)
    if turn.number > 1 and not supplies.asked:
        inputs = {name: array for name, array in inputs.items() if name not in program.kept_inputs}
    offsets, end = layout([array.nbytes for array in inputs.values()])
    arena.reserve(max(end, layout(_output_sizes(program))[1], 1))
    for offset, array in zip(offsets, inputs.values(), strict=True):
        target = np.frombuffer(arena.memory, array.dtype, array.size, offset)
        np.copyto(target.reshape(array.shape), array)
    slots = {name: (offset, array.nbytes) for offset, (name, array) in zip(offsets, inputs.items(), strict=True)}
    return RunRequest(supplies.weights.digest, supplies.placement, program.digest, slots, arena.size, turn)


def write_array(supplies: Supplies, digest: str, arena: Arena) -> ArrayRequest:
    """Copy an array of a weight set to the start of the arena, and request its upload."""
    array = content(supplies.arrays[digest])
    arena.reserve(array.nbytes)
    np.frombuffer(arena.memory, array.dtype, array.size)[:] = array.reshape(-1)
    return ArrayRequest(supplies.placement.device, digest, array.nbytes, arena.size)


def read_outputs(arena: Arena, program: Program) -> list[np.ndarray]:
    """The outputs as arrays of their own, in the shapes the program gives them."""
    offsets, _ = layout(_output_sizes(program))
    return [
        np.frombuffer(arena.memory, np.float32, prod(output.shape), offset).reshape(output.shape).copy()
        for output, offset in zip(program.outputs, offsets, strict=True)
    ]


def _output_sizes(program: Program) -> list[int]:
    return [4 * prod(output.shape) for output in program.outputs]


def _check(declared: Tensor, array: np.ndarray) -> None:
    """Dimensions of size one may be spelled differently: what counts is the type and the number of elements."""
    dtype = _TYPES.get(declared.type)
    if array.dtype != dtype or array.size != prod(declared.ne):
        raise RunnerError(
            f"the input {declared.name} is {array.dtype}{list(array.shape)}; the program takes {declared.type}"
            f"{list(reversed(declared.ne))}"
        )
