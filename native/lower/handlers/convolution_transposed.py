"""Transposed convolutions: every element spreads a kernel, and where kernels overlap they add up."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...program.builder import Builder
from ..lowering import Lowering
from ..strides import Operand, Shape, contiguous, contiguous_stride
from .data_movement import concat_all

SPREAD_BYTES = 256 << 20  # of kernels before they are added up; results with more are computed in parts of channels
_F32_BYTES = 4


def transposed_convolution(
    low: Lowering, x: Operand, kernel: Operand, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, out: Shape,
) -> Operand:  # fmt: skip
    """The transposed convolution of x [batch, in, *size] with kernel [in, out / groups, *kernel], of shape `out`."""
    inputs, outputs = kernel.shape[0] // groups, kernel.shape[1]
    spread = _F32_BYTES * out[0] * out[1] * math.prod((*x.shape[2:], *kernel.shape[2:]))
    parts = []
    count = groups if groups > 1 else outputs
    step = -(-count // (-(-spread // SPREAD_BYTES)))
    for start in range(0, count, step):
        taken = min(step, count - start)
        some, by = x, kernel
        if groups > 1:
            some = x.narrowed(1, start * inputs, taken * inputs)
            by = kernel.narrowed(0, start * inputs, taken * inputs)
        else:
            by = kernel.narrowed(1, start, taken)
        spread_kernels = _spread(low, some, by, taken if groups > 1 else 1)
        parts.append(_added_up(low.b, spread_kernels, stride, padding, dilation, out[2:]))
    return concat_all(low, parts, 1)


def _spread(low: Lowering, x: Operand, kernel: Operand, groups: int) -> Operand:
    """The kernel times every element, [groups, batch, *size, *kernel, out / groups], as one product."""
    b = low.b
    (batch, channels), size, side = x.shape[:2], x.shape[2:], kernel.shape[2:]
    inputs, outputs = channels // groups, kernel.shape[1]
    packed = Operand(contiguous(b, kernel), kernel.shape, contiguous_stride(kernel.shape))
    grouped = (groups, inputs, outputs, math.prod(side))
    by_input = Operand(packed.tensor, grouped, contiguous_stride(grouped)).permuted((0, 3, 2, 1))
    matrix = b.reshape(contiguous(b, by_input), (groups, math.prod(side) * outputs, inputs))
    count = math.prod(size)
    flat = (batch, groups, inputs, count)
    by_position = Operand(contiguous(b, x), flat, contiguous_stride(flat)).permuted((1, 0, 3, 2))
    columns = low.scale_down(b.reshape(contiguous(b, by_position), (groups, batch * count, inputs)))
    shape = (groups, batch, *size, *side, outputs)
    return Operand(low.unscale(b.op("mul_mat", matrix, columns)), shape, contiguous_stride(shape))


def _added_up(
    b: Builder, spread: Operand, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], out: Shape
) -> Operand:
    """The kernels that `_spread` returns, added where they overlap, as [batch, channels, *out]."""
    rank = len(out)
    groups, batch, *both, outputs = spread.shape
    side_by_side = [axis for i in range(rank) for axis in (2 + i, 2 + rank + i)]
    tensor = contiguous(b, spread.permuted((0, 1, *side_by_side, 2 + 2 * rank)))
    for axis in reversed(range(rank)):
        before = batch * groups * math.prod(both[:axis]) * math.prod(both[rank : rank + axis])
        after = math.prod(out[axis + 1 :]) * outputs
        tensor = _along_one_axis(b, tensor, (before, both[axis], both[rank + axis], after),
                                 stride[axis], dilation[axis], padding[axis], out[axis])  # fmt: skip
    shape = (groups, batch, *out, outputs)
    channels_last = Operand(tensor, shape, contiguous_stride(shape))
    order = (1, 0, 2 + rank, *range(2, 2 + rank))
    result = (batch, groups * outputs, *out)
    if groups == 1:
        moved = channels_last.permuted(order)
        return Operand(moved.tensor, result, (moved.stride[0], *moved.stride[2:]))
    return Operand(contiguous(b, channels_last.permuted(order)), result, contiguous_stride(result))


def _along_one_axis(b: Builder, tensor: int, shape: Shape, stride: int, dilation: int, start: int, length: int) -> int:
    """[before, elements, kernel, after] as [before, length, after]: element i's kernel begins at i * stride - start.

    The kernel is cut into pieces as long as the stride: of each, those of all elements lie one after the other.
    """
    before, count, side, after = shape
    if dilation > 1:
        tensor = _padded(b, b.reshape(tensor, (before * count * side, 1, after)), 0, dilation - 1)
        side *= dilation
    pieces = -(-side // stride)
    if side != pieces * stride:
        tensor = _padded(b, b.reshape(tensor, (before * count, side, after)), 0, pieces * stride - side)
    step = stride * after
    reach = max((count - 1 + pieces) * stride, start + length)
    total: int | None = None
    for piece in range(pieces):
        cut = Operand(tensor, (before, count, step), (count * pieces * step, pieces * step, 1), piece * step)
        line = b.reshape(contiguous(b, cut), (before, count * stride, after))
        line = _padded(b, line, piece * stride, reach - (piece + count) * stride)
        total = line if total is None else b.op("add", total, line)
    assert total is not None
    whole = Operand(total, (before, reach, after), contiguous_stride((before, reach, after)))
    return contiguous(b, whole.narrowed(1, start, length))


def _padded(b: Builder, tensor: int, first: int, last: int) -> int:
    """Zeros before and after the middle dimension of three."""
    if not first and not last:
        return tensor
    return b.op("pad", tensor, l0=0, r0=0, l1=first, r1=last, l2=0, r2=0, l3=0, r3=0)
