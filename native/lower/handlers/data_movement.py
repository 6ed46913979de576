"""Handlers of operations that move elements without computing with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...program.builder import LowerError
from ...trace.graph import Window
from ..lowering import Lowering, Made, handler
from ..strides import Operand, collapse, contiguous, contiguous_stride, padded, physical_order, strided_dimensions, view


@handler("clone", "_to_copy")
def clone(low: Lowering, out: Window, x: Window, *_: Any, **__: Any) -> int:
    """A copy in the memory layout of the result."""
    return contiguous(low.b, low.operand(x).broadcast(out.shape).permuted(low.layout(out).order))


@handler("copy")
def copy(low: Lowering, out: Window, _target: Window, source: Window, *_: Any) -> int:
    """Overwrite a window."""
    return clone(low, out, source)


@handler("fill", "zero")
def fill(low: Lowering, out: Window, _target: Window, value: float = 0.0) -> int:
    """Overwrite a window with a number."""
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
    """One after the other along a dimension, in pairs, so that each is copied few times."""
    largest = max(parts, key=lambda x: x.numel)
    repeated = any(n != 1 and stride == 0 for n, stride in zip(largest.shape, largest.stride, strict=True))
    order = tuple(range(len(largest.shape))) if repeated else physical_order(largest.shape, largest.stride)
    joined = [part.permuted(order) for part in parts]
    while len(joined) > 1:
        pairs = [joined[i : i + 2] for i in range(0, len(joined), 2)]
        joined = [concat(low, pair[0], pair[1], order.index(dim)) if len(pair) == 2 else pair[0] for pair in pairs]
    return joined[0].permuted([order.index(i) for i in range(len(order))])


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


@handler("embedding")
def embedding(low: Lowering, out: Window, table: Window, ids: Window, *_: Any) -> int:
    """Rows of a table by row numbers that come from the host."""
    if low.on_device(ids):
        raise LowerError("an embedding whose ids the device computes")
    numbers = low.b.reshape(contiguous(low.b, low.stored(ids)), (ids.numel,))
    return low.to_layout(low.b.op("get_rows", low.stored(table).tensor, numbers), out)


@handler("index")
def index(low: Lowering, out: Window, x: Window, indices: Sequence[Window | None]) -> int:
    """Elements at positions along leading dimensions; the positions come from the host."""
    given = [i for i in indices if i is not None]
    if len(given) != len(indices) or any(low.on_device(i) for i in given):
        raise LowerError(f"indexing with {['all' if i is None else 'values' for i in indices]}")
    sizes = x.shape[: len(given)]
    inner = x.shape[len(given) :]

    def positions(*parts: torch.Tensor) -> torch.Tensor:
        flat = torch.zeros((), dtype=torch.int64)
        for part, size in zip(torch.broadcast_tensors(*parts), sizes, strict=True):
            flat = flat * size + torch.where(part < 0, part + size, part)
        return flat.reshape(-1)

    numbers = contiguous(low.b, low.host_computed(("positions", sizes), positions, *given, dtype=torch.int64))
    length = math.prod(inner)
    table = low.b.reshape(contiguous(low.b, low.operand(x)), (x.numel // length, length))
    return low.to_layout(low.b.op("get_rows", table, numbers), out)


def taken(low: Lowering, x: Operand, dim: int, positions: Sequence[int]) -> Operand:
    """The elements at these positions along a dimension, which becomes the slowest in memory."""
    b = low.b
    order = (dim, *(i for i in range(len(x.shape)) if i != dim))
    if len(positions) == x.shape[dim] == 1:
        return x
    moved = x.permuted(order)
    table = b.reshape(contiguous(b, moved), (x.shape[dim], math.prod(moved.shape[1:])))
    rows = b.op("get_rows", table, b.constant(np.array(positions, np.int32)))
    shape = (len(positions), *moved.shape[1:])
    return Operand(rows, shape, contiguous_stride(shape)).permuted([order.index(i) for i in range(len(order))])


_NEAREST = {False: torch.ops.aten.upsample_nearest1d.default, True: torch.ops.aten._upsample_nearest_exact1d.default}


@handler("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def upsample_nearest(low: Lowering, out: Window, x: Window, _size: Any, *scales: Any, exact: bool = False) -> Made:
    """x [batch, channels, *size] in another size, each element the nearest of x by torch's rounding."""
    given = scales[0] if scales and isinstance(scales[0], (list, tuple)) else scales
    sizes, wanted = x.shape[2:], out.shape[2:]
    positions = [
        _NEAREST[exact](torch.arange(n, dtype=torch.float32).reshape(1, 1, n), [m], scale).long().flatten().tolist()
        for n, m, scale in zip(sizes, wanted, [*given, *[None] * len(sizes)][: len(sizes)], strict=True)
    ]
    source = low.operand(x)
    if all(place == [i * n // m for i in range(m)] and m % n == 0
           for place, n, m in zip(positions, sizes, wanted, strict=True)):  # fmt: skip
        flat = low.b.reshape(contiguous(low.b, source), (x.shape[0] * x.shape[1], *sizes))
        return low.to_layout(low.b.shaped("upscale", flat, (x.shape[0] * x.shape[1], *wanted), mode="nearest"), out)
    for dim, place in enumerate(positions, 2):
        if place != list(range(source.shape[dim])):
            source = taken(low, source, dim, place)
    return source


@handler("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
def upsample_nearest_exact(low: Lowering, out: Window, x: Window, size: Any, *scales: Any) -> Made:
    """The same, where the nearest is that of the middle of an element."""
    return upsample_nearest(low, out, x, size, *scales, exact=True)
