"""Splits a wide product of which only separate columns are used into one product for each, to lower peak memory.

The single blocks of FLUX.1 compute queries, keys, values and the feed-forward's input in one product of 21,504 columns,
which would all be allocated together. A row of a weight is a whole number of blocks, so each part is a product with
rows of the same weight: the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ...program.builder import Builder
from ...program.ops import OPERATIONS
from ...program.parameters import Concat, Pad
from .rewriter import Rewriting, needed, users

_ROWS = 16  # of a weight: the layouts of ggml's CPU_REPACK interleave up to so many of them
_ALIGNMENT = 256  # bytes: the most that Vulkan may ask of an offset into a buffer
_F32_BYTES = 4
Columns = tuple[int, int]  # from, to


def split_columns(b: Builder, outputs: Sequence[int], chunk_threshold_bytes: int) -> list[int]:
    """The outputs on a table in which wide products are split at the columns that are used.

    chunk_threshold_bytes: the least size of a result that is split.
    """
    indices = needed(b, outputs)
    using = users(b, indices, outputs)
    rewriting = Rewriting(b)
    parts: dict[int, Columns] = {}  # of the views of results that are split
    for index in indices:
        if b[index].kind == "op" and b.nbytes(index) >= chunk_threshold_bytes:
            parts |= _windows(b, index, using)

    def rule(index: int) -> int | None:
        return _view_of_part(rewriting, index, parts[index]) if index in parts else None

    # every part is tried, on sources that are what they were, before a product is split
    rewriting.run(indices, lambda old: old)
    for index in {b[view].sources[0] for view in parts}:
        views = [view for view in using[index] if view in parts]
        if any(_part(rewriting, index, parts[view]) is None for view in views):
            for view in views:
                del parts[view]
    rewriting.run(indices, rule)
    return [rewriting[output] for output in outputs]


def _windows(b: Builder, source: int, using: dict[int, list[int]]) -> dict[int, Columns]:
    """The views of a tensor and their columns, if it is used through views of separate columns alone."""
    found: dict[int, Columns] = {}
    for user in using[source]:
        columns = None if user < 0 else _columns(b, user, b[source].ne[0])
        if columns is None:
            return {}
        found[user] = columns
    ordered = sorted(set(found.values()))
    apart = all(first[1] <= second[0] for first, second in pairwise(ordered))
    return found if apart and ordered != [(0, b[source].ne[0])] else {}


def _columns(b: Builder, index: int, width: int) -> Columns | None:
    """The columns that a view shows of each row of `width` elements; None for what is no such view."""
    view = b.view(index)
    if view is None:
        return None
    strides = [1, *(nb // _F32_BYTES for nb in view.nb)]
    first = view.offset // _F32_BYTES % width
    inside = [(n, stride) for n, stride in zip(view.ne, strides, strict=True) if n != 1 and stride < width]
    if any(n != 1 and stride >= width and stride % width for n, stride in zip(view.ne, strides, strict=True)):
        return None
    last = first + sum((n - 1) * stride for n, stride in inside) + 1
    return (first, last) if last <= width else None


def _view_of_part(rewriting: Rewriting, index: int, columns: Columns) -> int:
    """A view of a tensor that is split, as one of the part with its columns."""
    b, view = rewriting.b, rewriting.b.view(index)
    (source,) = b[index].sources
    part = _part(rewriting, source, columns)
    assert view is not None
    assert part is not None
    if not b.is_contiguous(part):  # a source of a concatenation may have gaps
        part = b.op("cont", part)
    before, after = b[source].ne[0], b[part].ne[0]
    strides = [1, *(nb // _F32_BYTES for nb in view.nb)]
    dims = [
        (n, stride if stride < before else stride // before * after)
        for n, stride in zip(view.ne, strides, strict=True)
    ]  # fmt: skip
    row, column = divmod(view.offset // _F32_BYTES, before)
    return b.window(part, dims[::-1], row * after + column - columns[0])


def _part(rewriting: Rewriting, index: int, columns: Columns) -> int | None:
    """Columns of a tensor, computed alone; None where they cannot be."""
    b = rewriting.b
    tensor, (first, last) = b[index], columns
    if tensor.kind != "op":
        return None
    b.module_path = b.module_paths[index]
    if tensor.name == "mul_mat":
        weight, activations = tensor.sources
        inner, rows, *rest = b[weight].ne
        offset = b.nbytes(weight) // rows * first
        if b[weight].kind != "weight" or rest != [1, 1] or first % _ROWS or last % _ROWS or offset % _ALIGNMENT:
            return None
        part = b.window(weight, [(last - first, inner), (inner, 1)], first * inner)
        return b.again(index, (part, rewriting[activations]))
    if (first, last) == (0, tensor.ne[0]):
        return rewriting[index]
    if tensor.name == "concat":
        return _part_of_concat(rewriting, index, columns)
    if tensor.name == "pad":
        return _part_of_pad(rewriting, index, columns)
    if not OPERATIONS[tensor.name].splittable:
        return None
    sources: list[int] = []
    for source in tensor.sources:
        vector = sources and b[source].ne == (tensor.ne[0], 1, 1, 1)
        if vector:
            found: int | None = b.window(rewriting[source], [(last - first, 1)], first)
        else:
            found = _part(rewriting, source, columns) if b[source].ne == tensor.ne else None
        if found is None:
            return None
        sources.append(found)
    return b.again(index, sources)


def _part_of_concat(rewriting: Rewriting, index: int, columns: Columns) -> int | None:
    """Columns that one source of a concatenation has, computed alone."""
    b, (first, last) = rewriting.b, columns
    concat = Concat._make(b[index].parameters)
    left, right = b[index].sources
    before = b[left].ne[0]
    if concat.dim != 0 or first < before < last:
        return None
    return (
        _part(rewriting, left, columns) if last <= before else _part(rewriting, right, (first - before, last - before))
    )


def _part_of_pad(rewriting: Rewriting, index: int, columns: Columns) -> int | None:
    """Columns of what is padded in its rows alone, computed alone, or zeros."""
    b, (first, last) = rewriting.b, columns
    pad = Pad._make(b[index].parameters)
    (source,) = b[index].sources
    before, after = pad.l0, pad.l0 + b[source].ne[0]
    if any(pad[2:]):
        return None
    if before <= first and last <= after:
        return _part(rewriting, source, (first - before, last - before))
    return b.constant(np.zeros(last - first, np.float32)) if last <= before or first >= after else None
