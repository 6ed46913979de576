"""Takes a program apart into its operations, each on weights of its own, so that a wrong result has one cause."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from math import prod

from ..program import Output, Program, Tensor
from ..program.ops import is_view
from .blocks import Work

Rows = tuple[Tensor, ...]


def operations(work: Work, largest: int) -> list[Work]:
    """Each different operation of a program once, in programs whose outputs take at most `largest` bytes.

    One whose own output is larger has a program to itself. What it reads is a random weight, seen through the same
    views as in the program.
    """
    rows = work.program.tensors
    seen: set[Hashable] = set()
    made, table = [], _Table()
    for row in rows:
        if row.kind != "op" or is_view(row) or row.type == "I32":
            continue
        key = row.name, row.parameters, row.ne, tuple(_signature(rows, source) for source in row.sources)
        if key in seen:
            continue
        seen.add(key)
        if table.outputs and table.nbytes + 4 * prod(row.ne) > largest:
            made.append(table.work(work))
            table = _Table()
        table.add(rows, row)
    if table.outputs:
        made.append(table.work(work))
    return made


def single(work: Work) -> Iterator[Work]:
    """Each operation of a program of such operations as a program of its own."""
    for output, name in zip(work.program.outputs, work.names, strict=True):
        rows = work.program.tensors
        kept: list[Tensor] = []
        numbers: dict[int, int] = {}
        for index in sorted(_needed(rows, output.tensor)):
            numbers[index] = len(kept)
            row = rows[index]
            sources = tuple(numbers[source] for source in row.sources)
            kept.append(Tensor(row.kind, row.name, row.type, row.ne, sources, row.parameters))
        program = Program(tuple(kept), (Output(numbers[output.tensor], output.shape),))
        yield Work(work.label, program, work.values, (name,))


@dataclass
class _Table:
    """A program that grows."""

    rows: list[Tensor] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    nbytes: int = 0

    def add(self, rows: Rows, row: Tensor) -> None:
        """The operation `row` of a program."""
        placed: dict[int, int] = {}
        sources = tuple(self._source(rows, source, placed) for source in row.sources)
        self.rows.append(Tensor("op", row.name, row.type, row.ne, sources, row.parameters))
        if row.type != "F32":  # an output is
            self.rows.append(Tensor("op", "cast", "F32", row.ne, (len(self.rows) - 1,), ("F32",)))
        self.outputs.append(Output(len(self.rows) - 1, tuple(reversed(row.ne))))
        self.names.append(_text(rows, row))
        self.nbytes += 4 * prod(row.ne)

    def work(self, whole: Work) -> Work:
        """All that was added."""
        return Work(whole.label, Program(tuple(self.rows), tuple(self.outputs)), {}, tuple(self.names))

    def _source(self, rows: Rows, index: int, placed: dict[int, int]) -> int:
        """The source of an operation: a weight in place of what computes it, and the views on that."""
        if index not in placed:
            row = rows[index]
            if row.kind == "op" and is_view(row):
                source = self._source(rows, row.sources[0], placed)
                self.rows.append(Tensor("op", row.name, row.type, row.ne, (source,), row.parameters))
            else:
                self.rows.append(Tensor("weight", f"{len(self.rows)}", row.type, row.ne))
            placed[index] = len(self.rows) - 1
        return placed[index]


def _signature(rows: Rows, index: int) -> Hashable:
    row = rows[index]
    if row.kind == "op" and is_view(row):
        return row.name, row.parameters, row.ne, _signature(rows, row.sources[0])
    return row.type, row.ne


def _needed(rows: Rows, index: int) -> set[int]:
    needed = {index}
    for source in rows[index].sources:
        needed |= _needed(rows, source)
    return needed


def _text(rows: Rows, row: Tensor) -> str:
    """ "mul_mat of Q4_K[3072, 12288] and F32[3072, 512]"."""
    return f"{row.name} of {' and '.join(_shape(rows[source]) for source in row.sources)}"


def _shape(row: Tensor) -> str:
    ne = list(row.ne)
    while len(ne) > 1 and ne[-1] == 1:
        ne.pop()
    return f"{row.type}{ne}"
