"""The program: what lowering produces, what the planner measures and what the runner executes."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

FORMAT = 1
_MAGIC = b"GGPR"
_HEADER = struct.Struct("<4sIQ")  # magic, format, bytes of JSON


class ProgramError(ValueError):
    """Bytes that are no program, or a program that contradicts itself."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of the tensor table; its index is its position in `Program.tensors`.

    kind: "input" (filled per call), "weight" (a parameter of the model), "constant" (of the shape) or "op".
    name: input name, parameter name, constant key, or the ggml operation from `ops.OPERATIONS`.
    type: ggml type name, "F32", "Q4_K", ...
    ne: elements per dimension in ggml's order, fastest first.
    sources: indices of earlier tensors; parameters: in the order that `ops.OPERATIONS` names them.
    """

    kind: str
    name: str
    type: str
    ne: tuple[int, int, int, int]
    sources: tuple[int, ...] = ()
    parameters: tuple[int | float | str, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """A result: a contiguous F32 tensor of the table, and its shape in torch order."""

    tensor: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """Operations in execution order; what stands together here is what a backend may fuse."""

    tensors: tuple[Tensor, ...]
    outputs: tuple[Output, ...]
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the serialised program, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Serialise: a header, JSON for the tables, then the constants' raw bytes one after the other."""
        arrays = {key: np.ascontiguousarray(array) for key, array in self.constants.items()}
        head = {
            "tensors": [[t.kind, t.name, t.type, t.ne, t.sources, t.parameters] for t in self.tensors],
            "outputs": [[o.tensor, o.shape] for o in self.outputs],
            "constants": [[key, a.dtype.str, a.shape] for key, a in arrays.items()],
        }
        text = json.dumps(head, separators=(",", ":")).encode()
        return b"".join([_HEADER.pack(_MAGIC, FORMAT, len(text)), text, *(a.tobytes() for a in arrays.values())])

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Program:
        """Read what `to_bytes` wrote; the constants stay views on `data`.

        Raises ProgramError when the bytes are not a program of this format.
        """
        try:
            magic, version, length = _HEADER.unpack_from(data)
            if (magic, version) != (_MAGIC, FORMAT):
                raise ProgramError(f"not a program of format {FORMAT}: it begins with {bytes(magic)!r}, {version}")
            head: dict[str, Any] = json.loads(bytes(data[_HEADER.size : _HEADER.size + length]))
            position = _HEADER.size + length
            constants = {}
            for key, dtype, shape in head["constants"]:
                count = int(np.prod(shape, dtype=np.int64))
                constants[key] = np.frombuffer(data, np.dtype(dtype), count, position).reshape(shape)
                position += constants[key].nbytes
            program = cls(
                tuple(
                    Tensor(kind, name, type_, tuple(ne), tuple(sources), tuple(parameters))
                    for kind, name, type_, ne, sources, parameters in head["tensors"]
                ),
                tuple(Output(tensor, tuple(shape)) for tensor, shape in head["outputs"]),
                constants,
            )
        except (struct.error, KeyError, TypeError, ValueError) as error:
            raise ProgramError(f"these {len(data)} bytes are not a program: {error}") from error
        program.check()
        return program

    def check(self) -> None:
        """Raise ProgramError where a tensor refers to a later one, a constant is missing or an op is unknown."""
        from .ops import OPERATIONS

        for index, tensor in enumerate(self.tensors):
            where = f"tensor {index} ({tensor.kind} {tensor.name})"
            if any(not 0 <= source < index for source in tensor.sources):
                raise ProgramError(f"{where} has sources {tensor.sources}, which are not all before it")
            if tensor.kind == "constant" and tensor.name not in self.constants:
                raise ProgramError(f"{where} is not among the constants")
            if tensor.kind == "op":
                operation = OPERATIONS.get(tensor.name)
                if operation is None:
                    raise ProgramError(f"{where} is not an operation that the runner knows")
                if not operation.accepts(len(tensor.sources), len(tensor.parameters)):
                    raise ProgramError(
                        f"{where} has {len(tensor.sources)} sources and {len(tensor.parameters)} parameters"
                    )
            elif tensor.kind not in ("input", "weight", "constant") or tensor.sources or tensor.parameters:
                raise ProgramError(f"{where} is neither an operation nor a leaf")
        for output in self.outputs:
            if not 0 <= output.tensor < len(self.tensors):
                raise ProgramError(f"output {output.tensor} is not among the {len(self.tensors)} tensors")
