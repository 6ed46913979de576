"""Live tensors of a program at its memory peak, as ggml's allocator (ggml-alloc.c) counts them without gaps."""

from __future__ import annotations

from native.program import Program
from native.program.ops import OPERATIONS, is_view
from native.program.tensor import nbytes


def at_peak(program: Program) -> tuple[int, list[int]]:
    """Bytes alive where they are most, and the tensors that they are, largest first."""
    rows = program.tensors
    root = list(range(len(rows)))
    for index, row in enumerate(rows):
        if is_view(row):
            root[index] = root[row.sources[0]]
    last = {root[output.tensor]: len(rows) for output in program.outputs}
    for index, row in enumerate(rows):
        for source in row.sources:
            last[root[source]] = max(last.get(root[source], 0), index)
    alive: dict[int, int] = {i: nbytes(row) for i, row in enumerate(rows) if row.kind == "input"}
    peak, held = 0, list(alive)
    for index, row in enumerate(rows):
        if row.kind != "op" or is_view(row):
            continue
        same = next((root[s] for s in row.sources if root[s] in alive and last[root[s]] == index
                     and nbytes(rows[root[s]]) == nbytes(row)), None)  # fmt: skip
        if OPERATIONS[row.name].in_place and same is not None:
            del alive[same]
        alive[index] = nbytes(row)
        if sum(alive.values()) > peak:
            peak, held = sum(alive.values()), list(alive)
        for dead in [i for i in alive if last.get(i, index) <= index]:
            del alive[dead]
    return peak, sorted(held, key=lambda i: -nbytes(rows[i]))
