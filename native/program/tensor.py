"""Tensors of a program as ggml describes them: type name, dimensions in ggml's order, bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ..ggml_types import LAYOUTS

Ne = tuple[int, int, int, int]
Value = int | float | str  # of a parameter


@dataclass(frozen=True, slots=True)
class Tensor:
    """One row of the tensor table; its index is its position in `Program.tensors`.

    kind: "input" (filled per call), "weight" (a parameter of the model), "constant" (of the shape) or "op".
    name: input name, parameter name, constant key, or the ggml operation from `ops.OPERATIONS`.
    type: ggml type name, "F32", "Q4_K", ...
    ne: elements per dimension in ggml's order, fastest first.
    sources: indices of earlier tensors; parameters: a tuple with the fields of the operation's parameter class.
    """

    kind: str
    name: str
    type: str
    ne: Ne
    sources: tuple[int, ...] = ()
    parameters: tuple[Value, ...] = ()


def ne_of(shape: Sequence[int]) -> Ne:
    """A torch shape in ggml's order: fastest dimension first, filled up with ones to four.

    Of more than four dimensions the slowest ones are merged.
    """
    ne = (*reversed(shape), 1, 1, 1, 1)
    return ne[0], ne[1], ne[2], prod(ne[3:])


def nbytes(tensor: Tensor) -> int:
    """Bytes of a tensor's elements."""
    layout = LAYOUTS[tensor.type]
    return prod(tensor.ne) // layout.block * layout.nbytes


def row_text(tensor: Tensor) -> str:
    """A row in a message: "op mul_mat F32[64, 4, 1, 1]"."""
    return f"{tensor.kind} {tensor.name} {tensor.type}{list(tensor.ne)}"
