"""Handlers of padding, by a number or by elements from the border, and of cropping by negative amounts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import Operand, contiguous, contiguous_stride, padded
from .data_movement import concat_all, taken


def _by_dimension(rank: int, amounts: Sequence[int]) -> list[tuple[int, int]]:
    """Amounts before and after each dimension; torch lists those of the last dimension first."""
    pairs = [(amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)]
    return [(0, 0)] * (rank - len(pairs)) + pairs[::-1]


def _cropped(x: Operand, amounts: Sequence[tuple[int, int]]) -> Operand:
    """x without the elements that negative amounts take away."""
    for dim, (before, after) in enumerate(amounts):
        first, last = max(0, -before), max(0, -after)
        x = x.narrowed(dim, first, x.shape[dim] - first - last)
    return x


@handler("constant_pad_nd")
def constant_pad(low: Lowering, out: Window, x: Window, amounts: Sequence[int], value: float = 0.0) -> Operand:
    """A number around the last dimensions."""
    by_dimension = _by_dimension(len(x.shape), amounts)
    source = _cropped(low.operand(x), by_dimension)
    wanted = [(max(0, before), max(0, after)) for before, after in by_dimension]
    if value:
        return _bordered_by_value(low, source, wanted, float(value))
    return padded(low.b, source, wanted)


def _bordered_by_value(low: Lowering, x: Operand, wanted: Sequence[tuple[int, int]], value: float) -> Operand:
    constant = low.b.constant(np.full((1,), value, np.float32))
    for dim, amounts in enumerate(wanted):
        before, after = (
            [Operand(constant, (1,), (1,)).broadcast((*x.shape[:dim], n, *x.shape[dim + 1 :]))] if n else []
            for n in amounts
        )
        x = concat_all(low, [*before, x, *after], dim) if before or after else x
    return x


@handler("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(low: Lowering, out: Window, x: Window, amounts: Sequence[int]) -> Operand:
    """The outermost elements repeated outwards; of a dimension that is cropped away, the one at that border."""
    source = low.operand(x)
    for dim, (before, after) in enumerate(_by_dimension(len(x.shape), amounts)):
        size = x.shape[dim]
        start, stop = min(max(0, -before), size - 1), max(size + min(0, after), 1)
        more = out.shape[dim] - (stop - start)
        lead = min(max(0, before), more)
        source = source.narrowed(dim, start, stop - start)
        edges = [_repeated(low, source.narrowed(dim, i, 1), dim, n)
                 for i, n in ((0, lead), (stop - start - 1, more - lead))]  # fmt: skip
        parts = [each for each in (edges[0], source, edges[1]) if each.shape[dim]]
        source = concat_all(low, parts, dim) if len(parts) > 1 else source
    return source


def _repeated(low: Lowering, x: Operand, dim: int, times: int) -> Operand:
    """An edge so many times; a copy, so that what it is the edge of need not stay until both edges are there."""
    edge = Operand(contiguous(low.b, x), x.shape, contiguous_stride(x.shape)) if times else x
    return edge.broadcast((*x.shape[:dim], times, *x.shape[dim + 1 :]))


@handler("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(low: Lowering, out: Window, x: Window, amounts: Sequence[int]) -> Operand:
    """Elements mirrored at the outermost ones, which are not repeated."""
    by_dimension = _by_dimension(len(x.shape), amounts)
    source = _cropped(low.operand(x), by_dimension)
    for dim, (before, after) in enumerate(by_dimension):
        size = source.shape[dim]
        parts = [source]
        if before > 0:
            parts.insert(0, taken(low, source.narrowed(dim, 1, before), dim, range(before - 1, -1, -1)))
        if after > 0:
            parts.append(taken(low, source.narrowed(dim, size - 1 - after, after), dim, range(after - 1, -1, -1)))
        source = concat_all(low, parts, dim)
    return source
