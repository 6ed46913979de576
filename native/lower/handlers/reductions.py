"""Handlers of sums, means, variances and extremes over dimensions, and of running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...program.builder import LowerError
from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import Operand, contiguous, contiguous_stride
from .comparison import flags_of, inverted, maximum, minimum
from .elementwise import positive

Dimensions = Sequence[int] | int | None


def rows_over(low: Lowering, x: Operand, dims: Dimensions) -> int:
    """x as rows over these dimensions, all where there are none named: [other elements, elements of a row].

    One element without dimensions is a row of one.
    """
    x = x if x.shape else x.broadcast((1,))
    over = _dimensions(len(x.shape), dims)
    order = [i for i in range(len(x.shape)) if i not in over] + over
    length = math.prod(x.shape[i] for i in over)
    return low.b.reshape(contiguous(low.b, x.permuted(order)), (x.numel // length, length))


def rows_back(made: int, shape: Sequence[int], dim: int) -> Operand:
    """A result of as many rows as `rows_over` one dimension makes, in this shape."""
    if not shape:
        return Operand(made, (), ())
    order = [i for i in range(len(shape)) if i != dim % len(shape)] + [dim % len(shape)]
    permuted = tuple(shape[i] for i in order)
    operand = Operand(made, permuted, contiguous_stride(permuted))
    return operand.permuted([order.index(i) for i in range(len(order))])


def _dimensions(rank: int, dims: Dimensions) -> list[int]:
    if isinstance(dims, int):
        dims = [dims]
    return sorted(d % rank for d in dims) if dims else list(range(rank))


@handler("mean")
def mean(low: Lowering, out: Window, x: Window, dims: Dimensions = None, *_: Any, **__: Any) -> int:
    """The mean over dimensions."""
    return low.to_layout(low.b.op("mean", rows_over(low, low.operand(x), dims)), out)


@handler("sum")
def total(low: Lowering, out: Window, x: Window, dims: Dimensions = None, *_: Any, **__: Any) -> int:
    """The sum over dimensions."""
    return low.to_layout(low.b.op("sum_rows", rows_over(low, low.operand(x), dims)), out)


@handler("cumsum")
def cumsum(low: Lowering, out: Window, x: Window, dim: int, **_: Any) -> Operand:
    """Sums of the elements up to each one."""
    return rows_back(low.b.op("cumsum", rows_over(low, low.operand(x), dim)), out.shape, dim)


def _variance(
    low: Lowering, x: Window, dims: Dimensions | bool, options: Sequence[Any], correction: float | None
) -> int:
    """The sum of squared distances from the mean by the number of elements less the correction, 1 by default."""
    if isinstance(dims, bool):
        dims, options = None, [dims]
    if correction is None:
        correction = float(options[0]) if options else 1.0
    b = low.b
    rows = rows_over(low, low.operand(x), dims)
    count = b[rows].ne[0]
    if count <= correction:
        raise LowerError(f"the variance of {count} elements with a correction of {correction}")
    squares = b.op("sqr", b.op("sub", rows, b.op("mean", rows)))
    return b.op("scale", b.op("sum_rows", squares), factor=1 / (count - correction))


@handler("var")
def variance(
    low: Lowering, out: Window, x: Window, dims: Dimensions | bool = None, *options: Any,
    correction: float | None = None, **_: Any,
) -> int:  # fmt: skip
    """The variance over dimensions; options: whether it is unbiased."""
    return low.to_layout(_variance(low, x, dims, options, correction), out)


@handler("std")
def deviation(
    low: Lowering, out: Window, x: Window, dims: Dimensions | bool = None, *options: Any,
    correction: float | None = None, **_: Any,
) -> int:  # fmt: skip
    """The standard deviation over dimensions; options: whether it is unbiased."""
    return low.to_layout(low.b.op("sqrt", _variance(low, x, dims, options, correction)), out)


@handler("var_mean")
def variance_and_mean(
    low: Lowering, out: Window, x: Window, dims: Dimensions | bool = None, *options: Any,
    correction: float | None = None, **_: Any,
) -> tuple[int, int]:  # fmt: skip
    """Both over the same dimensions."""
    over = None if isinstance(dims, bool) else dims
    return variance(low, out, x, dims, *options, correction=correction), mean(low, low.output(1), x, over)


def _largest(low: Lowering, x: Operand, dims: Dimensions, sign: float) -> tuple[int, int]:
    """The largest of sign * x in each row, [rows, 1], and where it is, [rows]."""
    b = low.b
    rows = rows_over(low, x, dims)
    ne = b[rows].ne
    rows = rows if sign == 1 else b.op("scale", rows, factor=sign)
    places = b.op("argmax", rows)
    found = b.op("get_rows", b.reshape(rows, (ne[1], ne[0], 1)), b.reshape(places, (ne[1], 1)))
    return (found if sign == 1 else b.op("scale", found, factor=sign)), places


def _extreme(low: Lowering, out: Window, x: Window, arguments: Sequence[Any], sign: float) -> tuple[int, ...]:
    """max.default, max.dim and max.other, or the same of min."""
    if arguments and isinstance(arguments[0], Window):
        return ((maximum if sign == 1 else minimum)(low, out, x, arguments[0]),)
    values, places = _largest(low, low.operand(x), arguments[0] if arguments else None, sign)
    if not arguments:
        return (low.to_layout(values, out),)
    return low.to_layout(values, out), low.to_layout(low.b.op("cast", places, type="F32"), low.output(1))


@handler("max")
def largest(low: Lowering, out: Window, x: Window, *arguments: Any) -> tuple[int, ...]:
    """The largest of all elements, of those along a dimension and where it is, or of two tensors each."""
    return _extreme(low, out, x, arguments, 1.0)


@handler("min")
def smallest(low: Lowering, out: Window, x: Window, *arguments: Any) -> tuple[int, ...]:
    """The smallest of all elements, of those along a dimension and where it is, or of two tensors each."""
    return _extreme(low, out, x, arguments, -1.0)


@handler("amax")
def largest_over(low: Lowering, out: Window, x: Window, dims: Dimensions = None, *_: Any) -> int:
    """The largest over dimensions."""
    return low.to_layout(_largest(low, low.operand(x), dims, 1.0)[0], out)


@handler("amin")
def smallest_over(low: Lowering, out: Window, x: Window, dims: Dimensions = None, *_: Any) -> int:
    """The smallest over dimensions."""
    return low.to_layout(_largest(low, low.operand(x), dims, -1.0)[0], out)


@handler("argmax")
def place_of_largest(low: Lowering, out: Window, x: Window, dim: int | None = None, *_: Any) -> int:
    """Where the largest along a dimension is, or of all."""
    places = _largest(low, low.operand(x), dim, 1.0)[1]
    return low.to_layout(low.b.op("cast", places, type="F32"), out)


@handler("argmin")
def place_of_smallest(low: Lowering, out: Window, x: Window, dim: int | None = None, *_: Any) -> int:
    """Where the smallest along a dimension is, or of all."""
    places = _largest(low, low.operand(x), dim, -1.0)[1]
    return low.to_layout(low.b.op("cast", places, type="F32"), out)


@handler("any")
def any_true(low: Lowering, out: Window, x: Window, dims: Dimensions = None, *_: Any) -> int:
    """Whether one of the elements over dimensions is true."""
    return low.to_layout(positive(low.b, low.b.op("sum_rows", rows_over(low, flags_of(low, x), dims))), out)


@handler("all")
def all_true(low: Lowering, out: Window, x: Window, dims: Dimensions = None, *_: Any) -> int:
    """Whether all of the elements over dimensions are true."""
    wrong = low.b.op("sum_rows", inverted(low, rows_over(low, flags_of(low, x), dims)))
    return low.to_layout(inverted(low, positive(low.b, wrong)), out)
