"""Handlers of operations that move elements without computing with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ...program.builder import LowerError
from ...trace.graph import Window
from ..lowering import Lowering, Made, handler
from ..strides import Operand, collapse, contiguous, contiguous_stride, physical_order, strided_dimensions, unary, view
from .comparison import unequal


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
def fill(low: Lowering, out: Window, _target: Window, value: float = 0.0) -> int:
    """Overwrite a window with a number."""
    constant = low.b.constant(torch.full((1,), float(value)).numpy())
    return contiguous(low.b, Operand(constant, (1,), (1,)).broadcast(out.shape))


@handler("cat")
def cat(low: Lowering, out: Window, parts: Sequence[Window], dim: int = 0) -> Made:
    """Tensors one after the other along a dimension, in the memory order of the largest of them."""
    dim %= len(out.shape)
    parts = [part for part in parts if part.numel]
    if len(parts) == 1:
        return clone(low, out, parts[0])
    operands = [low.operand(part) for part in parts]
    largest = max(operands, key=lambda x: x.numel)
    repeated = any(n != 1 and stride == 0 for n, stride in zip(largest.shape, largest.stride, strict=True))
    order = low.layout(out).order if repeated else physical_order(largest.shape, largest.stride)
    joined = operands[0].permuted(order)
    for part in operands[1:]:
        joined = _concat(low, joined, part.permuted(order), order.index(dim))
    return joined.permuted([order.index(i) for i in range(len(order))])


def _concat(low: Lowering, first: Operand, second: Operand, dim: int) -> Operand:
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
        joined = x if joined is None else _concat(low, joined, x, dim)
    assert joined is not None
    return low.to_layout(contiguous(low.b, joined), out)


@handler("repeat")
def repeat(low: Lowering, out: Window, x: Window, times: Sequence[int]) -> int:
    """Copies along each dimension."""
    joined = low.operand(x)
    missing = len(times) - len(joined.shape)
    joined = Operand(joined.tensor, (1,) * missing + joined.shape, (1,) * missing + joined.stride, joined.offset)
    for dim, count in enumerate(times):
        once = joined
        for _ in range(count - 1):
            joined = _concat(low, joined, once, dim)
    return low.to_layout(contiguous(low.b, joined), out)


@handler("constant_pad_nd")
def pad(low: Lowering, out: Window, x: Window, amounts: Sequence[int], value: float = 0.0) -> int:
    """Zeros around the last dimensions."""
    if value or any(amount < 0 for amount in amounts) or len(x.shape) > 4:
        raise LowerError(f"padding {list(amounts)} with {value}")
    source = low.b.reshape(contiguous(low.b, low.operand(x)), x.shape)
    padded = dict(zip(("l0", "r0", "l1", "r1", "l2", "r2", "l3", "r3"), [*amounts, *[0] * 8], strict=False))
    return low.to_layout(low.b.op("pad", source, **padded), out)


@handler("upsample_nearest2d", "_upsample_nearest_exact2d")
def upsample_nearest(low: Lowering, out: Window, x: Window, *_: Any) -> int:
    """Larger pictures by repeating pixels, [batch, channels, height, width]."""
    if any(o % i for o, i in zip(out.shape[2:], x.shape[2:], strict=True)):
        raise LowerError(f"enlarging {x.shape[2:]} to {out.shape[2:]}, which is not a whole factor")
    source = low.b.reshape(contiguous(low.b, low.operand(x)), x.shape)
    return low.to_layout(low.b.shaped("upscale", source, out.shape, mode="nearest"), out)
