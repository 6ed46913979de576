"""The program: what lowering produces, what the planner measures and what the runner executes."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from .ops import OPERATIONS, is_view, parameters_of
from .tensor import Tensor, row_text

FORMAT = 1
_MAGIC = b"GGPR"
_HEADER = struct.Struct("<4sIQ")  # magic, format, bytes of JSON


class ProgramError(ValueError):
    """Bytes that are no program, or a program that contradicts itself."""


@dataclass(frozen=True, slots=True)
class Output:
    """A result: a contiguous F32 tensor of the table, and its shape in torch order."""

    tensor: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """Tensors in execution order; a backend may fuse operations that follow one another."""

    tensors: tuple[Tensor, ...]
    outputs: tuple[Output, ...]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    has_values: bool = True  # else constants are zeros that take no memory, for what only counts bytes

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the serialised program, in hex."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @cached_property
    def kept_inputs(self) -> frozenset[str]:
        """The inputs that the program writes into: they stay on the device from one run to the next."""
        found = set()
        for tensor in self.tensors:
            if tensor.kind == "op" and tensor.name == "set_rows":
                root = self.tensors[tensor.sources[0]]
                while is_view(root) or (root.kind == "op" and root.name == "set_rows"):
                    root = self.tensors[root.sources[0]]
                if root.kind == "input":
                    found.add(root.name)
        return frozenset(found)

    def to_bytes(self) -> bytes:
        """The program serialised: a header, JSON for the tables, then the constants' raw bytes one after the other."""
        head = {
            "tensors": [[t.kind, t.name, t.type, t.ne, t.sources, t.parameters] for t in self.tensors],
            "outputs": [[o.tensor, o.shape] for o in self.outputs],
            "constants": [[key, a.dtype.str, a.shape] for key, a in self.constants.items()],
            "has_values": self.has_values,
        }
        text = json.dumps(head, separators=(",", ":")).encode()
        values = [np.ascontiguousarray(array).data for array in self.constants.values()] if self.has_values else []
        return b"".join([_HEADER.pack(_MAGIC, FORMAT, len(text)), text, *values])

    def without_values(self) -> Program:
        """The program as a dry run needs it: constants have shapes alone."""
        zeros = {key: _zeros(array.dtype, array.shape) for key, array in self.constants.items()}
        return replace(self, constants=zeros, has_values=False)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Program:
        """The program that `to_bytes` wrote; the constants stay views on `data`.

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
                if not head["has_values"]:
                    constants[key] = _zeros(np.dtype(dtype), tuple(shape))
                    continue
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
                head["has_values"],
            )
        except (struct.error, KeyError, TypeError, ValueError) as error:
            raise ProgramError(f"these {len(data)} bytes are not a program: {error}") from error
        program.check()
        return program

    def check(self) -> None:
        """Raise ProgramError where the table contradicts itself.

        That is: a source that is not an earlier tensor, a constant without values, an unknown operation, too few or
        too many sources or parameters, and a type or ne that does not follow from them.
        """
        for index, tensor in enumerate(self.tensors):
            fault = self._fault(index, tensor)
            if fault:
                raise ProgramError(f"operation {index}, {row_text(tensor)}, is not valid: {fault}")
        for output in self.outputs:
            if not 0 <= output.tensor < len(self.tensors):
                raise ProgramError(f"output {output.tensor} is not among the {len(self.tensors)} tensors")

    def _fault(self, index: int, tensor: Tensor) -> str | None:
        if len(tensor.ne) != 4 or not all(isinstance(n, int) and n > 0 for n in tensor.ne):
            return "its ne are not four positive numbers"
        if any(not 0 <= source < index for source in tensor.sources):
            return f"its sources {tensor.sources} are not all before it"
        if tensor.kind == "op":
            return _contradiction(tensor, [self.tensors[source] for source in tensor.sources])
        if tensor.kind not in ("input", "weight", "constant") or tensor.sources or tensor.parameters:
            return "it is neither an operation nor a leaf"
        if tensor.kind == "constant" and tensor.name not in self.constants:
            return "it is not among the constants"
        return None

    def listing(self, module_paths: Sequence[str] = ()) -> str:
        """The program as a person reads it: a line for each tensor, with its index, type, dimensions and making.

        Dimensions are ne without what is 1 at their end; sources are indices, or names of leaves.
        module_paths: of each tensor, as Lowered has them; those of operations stand at the ends of the lines.
        """
        lines = []
        for index, tensor in enumerate(self.tensors):
            path = module_paths[index] if module_paths and tensor.kind == "op" else ""
            line = f"%{index:<5} {_type_and_ne(tensor):28} {self._making(tensor)}"
            lines.append(f"{line}  # {path}" if path else line)
        lines += [f"output {number}: %{o.tensor}, shape {list(o.shape)}" for number, o in enumerate(self.outputs)]
        return "\n".join(lines)

    def _making(self, tensor: Tensor) -> str:
        """ "mul_mat(blocks.0.weight, %7, prec=F32)", or "weight blocks.0.weight"."""
        if tensor.kind != "op":
            return f"{tensor.kind} {tensor.name}"
        sources = [(each, self.tensors[each]) for each in tensor.sources]
        arguments = [f"%{each}" if source.kind == "op" else source.name for each, source in sources]
        named = parameters_of(tensor.name, tensor.parameters)._asdict()
        return f"{tensor.name}({', '.join([*arguments, *(f'{name}={value}' for name, value in named.items())])})"


def _zeros(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.zeros((), dtype), shape)


def _type_and_ne(tensor: Tensor) -> str:
    ne = list(tensor.ne)
    while len(ne) > 1 and ne[-1] == 1:
        ne.pop()
    return f"{tensor.type}{ne}"


def _contradiction(tensor: Tensor, sources: Sequence[Tensor]) -> str | None:
    """How an operation's row departs from the table of operations."""
    operation = OPERATIONS.get(tensor.name)
    if operation is None:
        return "the runner does not know the operation"
    fewest, most = operation.sources
    if not fewest <= len(sources) <= most:
        return f"it takes {fewest} to {most} sources, not {len(sources)}"
    try:
        parameters = parameters_of(tensor.name, tensor.parameters)
        ne = operation.ne(sources, parameters) if operation.ne else tensor.ne
        type_ = operation.type(sources, parameters)
    except (TypeError, ValueError, KeyError, ArithmeticError) as error:
        return f"its parameters {tuple(tensor.parameters)} do not fit: {error}"
    if (type_, ne) != (tensor.type, tensor.ne):
        return f"its sources make it {type_}{list(ne)}"
    return None
