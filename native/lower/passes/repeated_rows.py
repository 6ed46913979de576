"""Computes once the rows that a matrix product would be given several times: they are repeated behind it.

Where experts take the tokens that chose them, each token is there as often as it chooses. What follows on the product
row by row is computed once too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...program.builder import Builder
from ...program.ops import OPERATIONS, PerToken
from .rewriter import Rewriting, needed


@dataclass(frozen=True, slots=True)
class _Picked:
    """A tensor whose elements are rows of a table [rows, length], F32, by number: the tensor `numbers`, I32.

    multiplied: the table is, or comes from, a product with a matrix.
    """

    table: int
    numbers: int
    length: int
    multiplied: bool = False


def repeated_rows(b: Builder, outputs: Sequence[int]) -> list[int]:
    """The outputs on a table in which products compute no row twice that a few elements tell to be the same."""
    indices = needed(b, outputs)
    rewriting = Rewriting(b)
    picked: dict[int, _Picked] = {}  # by tensor of the old table

    def rule(old: int) -> int | None:
        found = _picked(rewriting, picked, old) if b[old].kind == "op" else None
        if found is None:
            return None
        picked[old] = found
        if not found.multiplied:
            return None
        rows = b.op("get_rows", found.table, found.numbers)
        return b.reshape(rows, b[old].ne[::-1])

    rewriting.run(indices, rule)
    return [rewriting[output] for output in outputs]


def _picked(rewriting: Rewriting, picked: dict[int, _Picked], old: int) -> _Picked | None:
    """A tensor of the old table as rows of a smaller one; None where it is none."""
    b, row = rewriting.b, rewriting.b[old]
    sources = [picked.get(source) for source in row.sources]
    first = sources[0]
    if row.name == "get_rows":
        return _of_table(b, rewriting[row.sources[0]], rewriting[row.sources[1]])
    if row.name == "repeat":
        return _of_repeat(b, rewriting[row.sources[0]], row.ne)
    if row.name == "mul_mat":
        rows = sources[1]
        if rows is None or row.ne[2:] != (1, 1) or b[row.sources[1]].ne[0] != rows.length:
            return None
        product = b.again(old, (rewriting[row.sources[0]], rows.table))
        return _Picked(product, rows.numbers, row.ne[0], True)
    if first is None:
        return None
    if row.name == "reshape":
        return first
    if OPERATIONS[row.name].per_token is not PerToken.ELEMENTS:
        return None
    others = []
    for source, other in zip(row.sources[1:], sources[1:], strict=True):
        if other is not None and b[source].ne == row.ne and (other.numbers, other.length) == _rows(first):
            others.append(other.table)
        elif other is None and row.ne[0] == first.length and b[source].ne[1:] == (1, 1, 1):
            others.append(rewriting[source])  # one row, or one number, for all
        else:
            return None
    multiplied = first.multiplied or any(other.multiplied for other in sources[1:] if other is not None)
    return _Picked(b.again(old, (first.table, *others)), first.numbers, first.length, multiplied)


def _rows(picked: _Picked) -> tuple[int, int]:
    return picked.numbers, picked.length


def _of_table(b: Builder, table: int, numbers: int) -> _Picked | None:
    """Rows of a table that has fewer of them than are picked."""
    length, rows = b[table].ne[:2]
    flat = b[table].ne[2:] == (1, 1) and b[numbers].ne[1:] == (1, 1, 1)
    fewer = rows < b[numbers].ne[0]
    return _Picked(table, numbers, length) if flat and fewer and b[table].type == "F32" else None


def _of_repeat(b: Builder, source: int, ne: tuple[int, ...]) -> _Picked | None:
    """Rows [rows, 1, length] that are repeated one by one: [rows, times, length]."""
    length, one, rows, last = b[source].ne
    if one != 1 or last != 1 or ne != (length, ne[1], rows, 1) or b[source].type != "F32" or ne[1] == 1:
        return None
    numbers = b.constant(np.repeat(np.arange(rows, dtype=np.int32), ne[1]))
    return _Picked(b.reshape(source, (rows, length)), numbers, length)
