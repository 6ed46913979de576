"""Handlers of pictures made larger or smaller: interpolation and pools.

Interpolation and average pools are linear and go dimension by dimension, so each is a product with a small matrix for
each dimension. torch makes the matrices, by resizing the identity: every mode and every size is then as in torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ...program import parameters
from ...program.builder import LowerError
from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import Operand, contiguous, contiguous_stride, physical_order
from .data_movement import concat_all

_Resize = Callable[[torch.Tensor], torch.Tensor]


def _matrix(resize: _Resize, size: int, dims: int) -> torch.Tensor:
    """The matrix [new size, size] of a resize of the last of `dims` dimensions.

    The last, since torch's antialiasing is wrong in the first of two where the second is one pixel.
    """
    identity = torch.eye(size).reshape(size, *[1] * dims, size)
    return resize(identity).reshape(size, -1).t().contiguous()


def _product(low: Lowering, x: Operand, dim: int, matrix: torch.Tensor) -> Operand:
    """x with a dimension multiplied by a matrix [new size, size]."""
    b = low.b
    order = [i for i in physical_order(x.shape, x.stride) if i != dim] + [dim]
    moved = x.permuted(order)
    columns = b.reshape(contiguous(b, moved), (x.numel // x.shape[dim], x.shape[dim]))
    product = low.unscale(b.op("mul_mat", b.constant(matrix.numpy()), low.scale_down(columns)))
    shape = (*moved.shape[:-1], matrix.shape[0])
    return Operand(product, shape, contiguous_stride(shape)).permuted([order.index(i) for i in range(len(order))])


def _resized(low: Lowering, x: Window, matrices: Sequence[torch.Tensor]) -> Operand:
    """x with its last dimensions multiplied by matrices, those that shrink most first."""
    result = low.operand(x)
    first = len(x.shape) - len(matrices)
    for i in sorted(range(len(matrices)), key=lambda i: (matrices[i].shape[0] / matrices[i].shape[1], -i)):
        if not torch.equal(matrices[i], torch.eye(*matrices[i].shape)):
            result = _product(low, result, first + i, matrices[i])
    return result


def _register_interpolation(name: str) -> None:
    function = getattr(torch.ops.aten, name).default

    @handler(name)
    def interpolate(
        low: Lowering, out: Window, x: Window, size: Sequence[int], align_corners: bool, *scales: float | None
    ) -> Operand:
        """Interpolation between pixels, [batch, channels, ..]."""
        dims = len(size)
        scales = (*scales, *(None,) * (dims - len(scales)))

        def resize(i: int) -> _Resize:
            alone = [1] * (dims - 1)
            unscaled = [None] * (dims - 1)
            return lambda identity: function(identity, [*alone, size[i]], align_corners, *unscaled, scales[i])

        return _resized(low, x, [_matrix(resize(i), n, dims) for i, n in enumerate(x.shape[-dims:])])


for _name in (
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
):  # fmt: skip
    _register_interpolation(_name)


def _each(amounts: Sequence[int], dims: int) -> Sequence[int]:
    """One number for each dimension, where one may stand for all."""
    return amounts if len(amounts) == dims else [*amounts] * dims


@handler("avg_pool2d", "avg_pool3d")
def average_pool(
    low: Lowering, out: Window, x: Window, sides: Sequence[int], strides: Sequence[int] = (),
    paddings: Sequence[int] = (0,), ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Operand:  # fmt: skip
    """Means of rectangles or boxes along the last dimensions."""
    if divisor_override is not None:
        raise LowerError(f"an average pool that divides by {divisor_override}")
    dims = len(sides)
    strides, paddings = _each(strides or sides, dims), _each(paddings, dims)

    def pool(i: int) -> _Resize:
        how = (sides[i], strides[i], paddings[i], ceil_mode, count_include_pad)
        return lambda identity: torch.nn.functional.avg_pool1d(identity, *how)

    return _resized(low, x, [_matrix(pool(i), n, 1) for i, n in enumerate(x.shape[-dims:])])


@handler("_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def adaptive_average_pool(low: Lowering, out: Window, x: Window, size: Sequence[int]) -> Operand:
    """Means of as many rectangles or boxes as the result has pixels."""

    def pool(i: int) -> _Resize:
        return lambda identity: torch.nn.functional.adaptive_avg_pool1d(identity, size[i])

    return _resized(low, x, [_matrix(pool(i), n, 1) for i, n in enumerate(x.shape[-len(size) :])])


@handler("max_pool2d_with_indices")
def max_pool(
    low: Lowering, out: Window, x: Window, sides: Sequence[int], strides: Sequence[int] = (),
    paddings: Sequence[int] = (0,), dilations: Sequence[int] = (1,), ceil_mode: bool = False,
) -> int:  # fmt: skip
    """The largest of each rectangle, [.., height, width]; not where it was."""
    sides, strides, paddings = (_each(each, 2) for each in (sides, strides or sides, paddings))
    whole = tuple((n + 2 * p - k) // s + 1 for n, p, k, s in zip(x.shape[-2:], paddings, sides, strides, strict=True))
    if any(d != 1 for d in dilations) or whole != out.shape[-2:]:
        raise LowerError(f"a maximum of {sides} with dilations {dilations} that makes {x.shape} {out.shape}")
    count, size = x.numel // (x.shape[-2] * x.shape[-1]), tuple(out.shape[-2:])
    pictures = low.b.reshape(contiguous(low.b, low.operand(x)), (count, *x.shape[-2:]))
    whole_pictures = Operand(pictures, (count, *x.shape[-2:]), contiguous_stride((count, *x.shape[-2:])))
    most = max(1, (parameters.POOLED - 1) // (size[0] * size[1]))

    def pooled(start: int) -> Operand:
        some = min(most, count - start)
        part = pictures
        if some < count:
            part = low.b.reshape(contiguous(low.b, whole_pictures.narrowed(0, start, some)), (some, *x.shape[-2:]))
        largest = low.b.op(
            "max_pool_2d", part, side0=sides[1], side1=sides[0], stride0=strides[1], stride1=strides[0],
            pad0=paddings[1], pad1=paddings[0],
        )  # fmt: skip
        return Operand(largest, (some, *size), contiguous_stride((some, *size)))

    joined = concat_all(low, [pooled(start) for start in range(0, count, most)], 0)
    return low.to_layout(contiguous(low.b, joined), out)
