"""A wide product of which only separate columns are used becomes one product for each: they need not live together.

The single blocks of FLUX.1 make queries, keys, values and the feed-forward's input in one product of 21,504 columns.
A row of a weight is a whole number of blocks, so each part is a product with rows of the same weight: the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from ...program.builder import Builder
from .rewriter import Rewriting, needed, users

_ROWS = 16  # of a weight: the layouts of ggml's CPU_REPACK hold up to so many of them together
_ALIGNMENT = 256  # bytes: the most that Vulkan may ask of where a buffer's part begins
Columns = tuple[int, int]  # from, to


def split_columns(b: Builder, outputs: Sequence[int], chunk_threshold_bytes: int) -> list[int]:
    """The outputs on a table in which products of `wide_bytes` and more are split at the columns that are used."""
    indices = needed(b, outputs)
    using = users(b, indices, outputs)
    rewriting = Rewriting(b)
    parts: dict[int, Columns] = {}  # views of what is split
    for index in indices:
        if b[index].kind == "op" and b.nbytes(index) >= chunk_threshold_bytes:
            parts |= _windows(b, index, using)

    def rule(view: int) -> int | None:
        if view not in parts:
            return None
        (whole,) = b[view].sources
        part = _part(rewriting, whole, parts[view])
        assert part is not None
        before, after = b[whole].ne[0], b[part].ne[0]
        ne, steps = b[view].parameters[:4], (4, *b[view].parameters[4:7])
        offset = int(b[view].parameters[7]) // 4
        dims = [
            (int(n), int(step) // 4 if int(step) < 4 * before else int(step) // 4 // before * after)
            for n, step in zip(ne, steps, strict=True)
        ]
        return b.window(part, dims, offset // before * after + offset % before - parts[view][0])

    # a product is tried before it is promised, on sources that are what they were
    rewriting.run(indices, lambda old: old)
    for index in {b[view].sources[0] for view in parts}:
        views = [view for view in using[index] if view in parts]
        if any(_part(rewriting, index, parts[view]) is None for view in views):
            for view in views:
                del parts[view]
    rewriting.run(indices, rule)
    return [rewriting[output] for output in outputs]


def _windows(b: Builder, whole: int, using: dict[int, list[int]]) -> dict[int, Columns]:
    """The views of a tensor and their columns, if it is used through views of separate columns alone."""
    found: dict[int, Columns] = {}
    for user in using[whole]:
        columns = None if user < 0 or b[user].name != "view" else _columns(b, user, b[whole].ne[0])
        if columns is None:
            return {}
        found[user] = columns
    ordered = sorted(set(found.values()))
    apart = all(first[1] <= second[0] for first, second in pairwise(ordered))
    return found if apart and ordered != [(0, b[whole].ne[0])] else {}


def _columns(b: Builder, view: int, width: int) -> Columns | None:
    """The columns that a view of rows of `width` elements shows of each."""
    ne = [int(n) for n in b[view].parameters[:4]]
    steps = [1, *(int(nb) // 4 for nb in b[view].parameters[4:7])]
    first = int(b[view].parameters[7]) // 4 % width
    inside = [(n, step) for n, step in zip(ne, steps, strict=True) if n != 1 and step < width]
    if any(n != 1 and step >= width and step % width for n, step in zip(ne, steps, strict=True)):
        return None
    last = first + sum((n - 1) * step for n, step in inside) + 1
    return (first, last) if last <= width else None


def _part(rewriting: Rewriting, index: int, columns: Columns) -> int | None:
    """Columns of a tensor, computed alone; None where they cannot be."""
    b = rewriting.b
    tensor, (first, last) = b[index], columns
    if tensor.kind != "op" or tensor.name == "get_rows":
        return None
    b.module_path = b.module_paths[index]
    ne = (last - first, *tensor.ne[1:])
    if tensor.name == "mul_mat":
        weight = b[tensor.sources[0]]
        inner = weight.ne[0]
        offset = b.nbytes(tensor.sources[0]) // weight.ne[1] * first
        if weight.kind != "weight" or weight.ne[2:] != (1, 1) or first % _ROWS or last % _ROWS or offset % _ALIGNMENT:
            return None
        rows = b.window(tensor.sources[0], [(inner, 1), (last - first, inner)], first * inner)
        return b.op("mul_mat", rows, rewriting[tensor.sources[1]], ne=ne, parameters=tensor.parameters)
    if tensor.name == "scale":
        source = _part(rewriting, tensor.sources[0], columns)
        return None if source is None else b.op("scale", source, ne=ne, parameters=tensor.parameters)
    if tensor.name in ("add", "mul"):
        left, right = tensor.sources
        product = _part(rewriting, left, columns)
        if product is None:
            return None
        if b[right].ne == (tensor.ne[0], 1, 1, 1):
            factor = b.window(rewriting[right], [(last - first, 1)], first)
            return b.op(tensor.name, product, factor, ne=ne)
        other = _part(rewriting, right, columns)
        return None if other is None or b[right].ne != tensor.ne else b.op(tensor.name, product, other, ne=ne)
    return None
