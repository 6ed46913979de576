"""The work of a program, by what its speed hangs on: floating-point operations of products, bytes of all else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

from ..program import Program, Tensor
from ..program.ops import flops, is_view
from ..program.tensor import nbytes

_PRODUCTS = ("mul_mat", "flash_attn", "conv_2d", "conv_2d_dw", "conv_3d")
_PAIRED = ("add", "sub", "mul", "div")
_KEPT = 256  # programs whose work is remembered


class Work(NamedTuple):
    """Operations that are alike.

    kind: the operation, of products with the type of the weights: "mul_mat Q4_K", "flash_attn F16", "norm".
    size: what the speed hangs on: columns of a product, channels of an attention's head, kernels of a convolution, as
    what is under them is gathered once for all of them; bytes of all else.
    """

    kind: str
    size: float
    flops: float
    nbytes: float  # read and written
    elements: int = 0  # of a product of matrices


def work_of(program: Program) -> tuple[tuple[Work, int], ...]:
    """The work of a program and how often each is done."""
    return _work_of(_ById(program))


class _ById:
    """A program as a key of a cache: programs are never changed, and comparing two of them takes long."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __hash__(self) -> int:
        return id(self.program)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.program is self.program


@lru_cache(_KEPT)
def _work_of(key: _ById) -> tuple[tuple[Work, int], ...]:
    rows = key.program.tensors
    found = Counter(row_work(rows, index) for index, row in enumerate(rows) if row.kind == "op" and not is_view(row))
    return tuple(found.items())


def row_work(rows: Sequence[Tensor], index: int) -> Work:
    """The work of an operation, a row of a program's table."""
    row = rows[index]
    return _work(row, [rows[source] for source in row.sources], rows)


def _work(row: Tensor, sources: Sequence[Tensor], rows: Sequence[Tensor]) -> Work:
    touched = float(nbytes(row) + sum(map(nbytes, sources)))
    if row.name in _PRODUCTS:
        operations = flops(row, sources)
        elements = prod(row.ne) if row.name == "mul_mat" else 0
        return Work(f"{row.name} {_type(row, sources)}", _size(row, sources), operations, touched, elements)
    if row.name == "get_rows":
        touched = 2.0 * nbytes(row)
    return Work(_turning(row, sources, rows), touched, 0.0, touched)


def _type(row: Tensor, sources: Sequence[Tensor]) -> str:
    """The type of the weights, kernels or keys."""
    return sources[1 if row.name == "flash_attn" else 0].type


def _size(row: Tensor, sources: Sequence[Tensor]) -> float:
    first = sources[0].ne
    if row.name == "mul_mat":
        return float(prod(row.ne[1:]) if first[2] * first[3] == 1 else row.ne[1])
    if row.name == "flash_attn":
        return float(first[0])
    if row.name == "conv_3d":
        volumes = sources[1].ne[3]  # channels in, times batch; a kernel is for each pair of channels in and out
        return float(max(1, round((first[3] * row.ne[3] / volumes) ** 0.5)))
    return float(first[3])


def _turning(row: Tensor, sources: Sequence[Tensor], rows: Sequence[Tensor]) -> str:
    """The operation; "transpose" for a copy that reads elements which do not follow one another.

    "broadcast" where an operation has one element of its second source for a whole row of the first.
    """
    if len(sources) == 2 and row.name in _PAIRED and sources[1].ne[0] == 1 < row.ne[0]:
        return "broadcast"
    source = sources[0]
    while row.name in ("cont", "cast") and source.kind == "op" and source.name in ("view", "reshape"):
        source = rows[source.sources[0]]
    turned = row.name in ("cont", "cast") and source.kind == "op" and source.name == "permute"
    return "transpose" if turned and source.parameters[0] != 0 else row.name
