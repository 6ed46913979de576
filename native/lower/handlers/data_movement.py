"""Handlers of operations that move elements without computing with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...program.builder import LowerError
from ...trace.graph import Window
from ..lowering import Lowering, Made, handler
from ..strides import (
    Operand,
    collapse,
    contiguous,
    contiguous_stride,
    padded,
    physical_order,
    strided_dimensions,
    unary,
    view,
)
from .comparison import unequal

_SEVERAL = 4  # elements that are joined one by one with less copying than rows of a table are picked with


@handler("clone", "_to_copy")
def clone(low: Lowering, out: Window, x: Window, *_: Any, **__: Any) -> int:
    """A copy in the memory layout of the result; towards 0 where whole numbers are asked for."""
    if out.dtype == torch.bool and x.dtype != torch.bool:
        return unequal(low, out, x, 0)
    if not out.dtype.is_floating_point and x.dtype.is_floating_point:
        return unary(low.b, "trunc", low.operand(x), low.layout(out))
    return contiguous(low.b, low.operand(x).broadcast(out.shape).permuted(low.layout(out).order))


@handler("copy")
def copy(low: Lowering, out: Window, _target: Window, source: Window, *_: Any) -> int:
    """Overwrite a window."""
    return clone(low, out, source)


@handler("fill", "zero")
def fill(low: Lowering, out: Window, target: Window, value: float | Window = 0.0) -> int:
    """Overwrite a window with a number, which may be a tensor of one element."""
    if isinstance(value, Window):
        return copy(low, out, target, value)
    constant = low.b.constant(torch.full((1,), float(value)).numpy())
    return contiguous(low.b, Operand(constant, (1,), (1,)).broadcast(out.shape))


@handler("cat")
def cat(low: Lowering, out: Window, parts: Sequence[Window], dim: int = 0) -> Made:
    """Tensors one after the other along a dimension, in the memory order of the largest of them."""
    dim %= len(out.shape)
    parts = [part for part in parts if part.numel]
    zeros = [low.is_constant(part) and not low.value(part).any() for part in parts]
    first = zeros.index(False) if False in zeros else 0
    last = len(parts) - (zeros[::-1].index(False) if False in zeros else 0)
    before, after = (sum(part.shape[dim] for part in some) for some in (parts[:first], parts[last:]))
    if last - first == 1 and not before and not after:
        return clone(low, out, parts[first])
    joined = concat_all(low, [low.operand(part) for part in parts[first:last]], dim)
    if before or after:  # as videos are padded: no zeros are kept to be joined to something
        joined = padded(low.b, joined, [(before, after) if i == dim else (0, 0) for i in range(len(out.shape))])
    return joined


def concat_all(low: Lowering, parts: Sequence[Operand], dim: int) -> Operand:
    """One after the other along a dimension, in the memory order of the largest."""
    largest = max(parts, key=lambda x: x.numel)
    repeated = any(n != 1 and stride == 0 for n, stride in zip(largest.shape, largest.stride, strict=True))
    order = tuple(range(len(largest.shape))) if repeated else physical_order(largest.shape, largest.stride)
    joined = _halves(low, [part.permuted(order) for part in parts], order.index(dim))
    return joined.permuted([order.index(i) for i in range(len(order))])


def _halves(low: Lowering, parts: Sequence[Operand], dim: int) -> Operand:
    """The same by halves, so that each is copied few times, of which the first is the smaller where there is a choice.

    So the parts are computed in their order (native/program/schedule.py), in which those of a video need one another.
    """
    if len(parts) == 1:
        return parts[0]
    sizes = [part.numel for part in parts]
    count = max(1, *(n for n in range(len(parts)) if 2 * sum(sizes[:n]) <= sum(sizes)))
    return concat(low, _halves(low, parts[:count], dim), _halves(low, parts[count:], dim), dim)


def concat(low: Lowering, first: Operand, second: Operand, dim: int) -> Operand:
    """Two tensors along a dimension."""
    b = low.b
    shape = tuple(n + second.shape[dim] if i == dim else n for i, n in enumerate(first.shape))
    for copied in (False, True):
        if copied:
            first, second = (Operand(contiguous(b, x), x.shape, contiguous_stride(x.shape)) for x in (first, second))
        groups, inner = _concat_groups(first, second, dim)
        if all(strided_dimensions(each) <= 4 and all(stride for _, stride in each) for each in groups):
            break
    tensors = [view(b, x, each) for x, each in zip((first, second), groups, strict=True)]
    return Operand(b.op("concat", *tensors, dim=inner), shape, contiguous_stride(shape))


def _concat_groups(first: Operand, second: Operand, dim: int) -> tuple[list[list[tuple[int, int]]], int]:
    """(elements, stride) of both: dimensions before `dim` merged, those after it too; and how many come after it."""
    parts = []
    for dims in (range(dim), range(dim + 1, len(first.shape))):
        shape = tuple(first.shape[i] for i in dims)
        strides = [tuple(x.stride[i] for i in dims) for x in (first, second)]
        parts.append(collapse(shape, strides) if math.prod(shape) != 1 else [])
    before, after = parts
    groups = []
    for k, x in enumerate((first, second)):
        head, tail = ([(n, stride[k]) for n, stride in part] for part in (before, after))
        pitch = tail[0][0] * tail[0][1] if tail else 1  # keeps a single element next to what follows it
        groups.append([*head, (x.shape[dim], x.stride[dim] if x.shape[dim] != 1 else pitch), *tail])
    return groups, len(after)


@handler("stack")
def stack(low: Lowering, out: Window, parts: Sequence[Window], dim: int = 0) -> int:
    """Tensors side by side along a new dimension."""
    dim %= len(out.shape)
    joined: Operand | None = None
    for part in parts:
        x = low.operand(part)
        x = Operand(x.tensor, (*x.shape[:dim], 1, *x.shape[dim:]), (*x.stride[:dim], 1, *x.stride[dim:]), x.offset)
        joined = x if joined is None else concat(low, joined, x, dim)
    assert joined is not None
    return low.to_layout(contiguous(low.b, joined), out)


@handler("repeat")
def repeat(low: Lowering, out: Window, x: Window, times: Sequence[int]) -> int:
    """Copies along each dimension."""
    source = low.operand(x)
    source = source.broadcast((1,) * (len(times) - len(x.shape)) + x.shape)
    shape = tuple(n for pair in zip(times, source.shape, strict=True) for n in pair)
    stride = tuple(step for own in source.stride for step in (0, own))
    return low.to_layout(contiguous(low.b, Operand(source.tensor, shape, stride, source.offset)), out)


@handler("flip")
def flip(low: Lowering, out: Window, x: Window, dims: Sequence[int]) -> Made:
    """The elements along some dimensions in reversed order."""
    flipped = low.operand(x)
    for dim in dims:
        if x.shape[dim] > 1:
            flipped = taken(low, flipped, dim % len(x.shape), range(x.shape[dim])[::-1])
    return clone(low, out, x) if flipped == low.operand(x) else flipped


@handler("roll")
def roll(low: Lowering, out: Window, x: Window, shifts: Sequence[int], dims: Sequence[int] = ()) -> Made:
    """The elements moved along some dimensions, those past the end to the beginning."""
    if not dims:
        raise LowerError("a roll over all dimensions at once")
    rolled = low.operand(x)
    for shift, dim in zip(shifts, dims, strict=True):
        size = x.shape[dim]
        first = -shift % size
        if first:
            dim %= len(x.shape)
            rolled = concat(low, _along(rolled, dim, first, size), _along(rolled, dim, 0, first), dim)
    return clone(low, out, x) if rolled == low.operand(x) else rolled


def _along(x: Operand, dim: int, start: int, end: int) -> Operand:
    """The elements from `start` to before `end` along a dimension."""
    shape = (*x.shape[:dim], end - start, *x.shape[dim + 1 :])
    return replace(x, shape=shape, offset=x.offset + start * x.stride[dim])


def taken(low: Lowering, x: Operand, dim: int, positions: Sequence[int]) -> Operand:
    """The elements at these positions along a dimension, which becomes the slowest in memory if they are many."""
    b = low.b
    if len(positions) <= _SEVERAL:
        return concat_all(low, [x.narrowed(dim, position, 1) for position in positions], dim)
    order = (dim, *(i for i in range(len(x.shape)) if i != dim))
    moved = x.permuted(order)
    table = b.reshape(contiguous(b, moved), (x.shape[dim], math.prod(moved.shape[1:])))
    rows = b.op("get_rows", table, b.constant(np.array(positions, np.int32)))
    shape = (len(positions), *moved.shape[1:])
    return Operand(rows, shape, contiguous_stride(shape)).permuted([order.index(i) for i in range(len(order))])


@handler("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def upsample_nearest(low: Lowering, out: Window, x: Window, _size: Any, *scales: Any) -> Made:
    """x [batch, channels, *size] in another size, each element the nearest of x by torch's rounding."""
    return _nearest(low, out, x, "upsample_nearest", scales)


@handler("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
def upsample_nearest_exact(low: Lowering, out: Window, x: Window, _size: Any, *scales: Any) -> Made:
    """The same, where the nearest is that of the middle of an element."""
    return _nearest(low, out, x, "_upsample_nearest_exact", scales)


def _nearest(low: Lowering, out: Window, x: Window, name: str, scales: Sequence[Any]) -> Made:
    given = scales[0] if scales and isinstance(scales[0], (list, tuple)) else scales
    sizes, wanted = x.shape[2:], out.shape[2:]
    positions = [_nearest_positions(name, sizes, wanted, given, axis) for axis in range(len(sizes))]
    source = low.operand(x)
    if all(place == [i * n // m for i in range(m)] and m % n == 0
           for place, n, m in zip(positions, sizes, wanted, strict=True)):  # fmt: skip
        flat = low.b.reshape(contiguous(low.b, source), (x.shape[0] * x.shape[1], *sizes))
        return low.to_layout(low.b.shaped("upscale", flat, (x.shape[0] * x.shape[1], *wanted), mode="nearest"), out)
    for dim, place in enumerate(positions, 2):
        if place != list(range(source.shape[dim])):
            source = taken(low, source, dim, place)
    return source


def _nearest_positions(
    name: str, sizes: Sequence[int], wanted: Sequence[int], scales: Sequence[float | None], axis: int
) -> list[int]:
    """The element along one dimension that torch takes for each of the result, asked of torch: it has several rules."""
    function = getattr(torch.ops.aten, f"{name}{len(sizes)}d").default
    line = [n if i == axis else 1 for i, n in enumerate(sizes)]
    numbers = torch.arange(sizes[axis], dtype=torch.float32).reshape(1, 1, *line)
    factors = [scale if i == axis else None for i, scale in enumerate(scales)]
    size = [n if i == axis else 1 for i, n in enumerate(wanted)]
    positions: list[int] = function(numbers, size, *factors).long().flatten().tolist()
    return positions
