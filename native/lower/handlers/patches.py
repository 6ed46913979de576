"""Handlers of pictures cut into patches and put together from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import Operand, Shape, contiguous, contiguous_stride

_Pair = Sequence[int]


@handler("im2col")
def unfold(
    low: Lowering, out: Window, x: Window, sides: _Pair, dilations: _Pair, paddings: _Pair, strides: _Pair
) -> int:
    """Patches of pictures [batch, channels, height, width], as [batch, channels * patch pixels, patches]."""
    picture = low.operand(x)
    *lead, height, width = x.shape
    if _side_by_side(sides, dilations, paddings, strides):
        down, across = height // sides[0], width // sides[1]
        *steps, row, pixel = picture.stride
        shape = (*lead, sides[0], sides[1], down, across)
        stride = (*steps, row, pixel, row * sides[0], pixel * sides[1])
        return low.to_layout(contiguous(low.b, Operand(picture.tensor, shape, stride, picture.offset)), out)
    pixels = _places(sides, dilations, paddings, strides, height, width)
    taken = _rows(low, _pixels_first(low, picture), pixels)
    return low.to_layout(contiguous(low.b, _pixels_last(taken, (*pixels.shape, *lead))), out)


@handler("col2im")
def fold(
    low: Lowering, out: Window, x: Window, size: _Pair, sides: _Pair, dilations: _Pair, paddings: _Pair, strides: _Pair
) -> int | Operand:
    """Pictures [batch, channels, height, width] from patches [batch, channels * patch pixels, patches], which add."""
    *lead, height, width = out.shape
    area, patches = sides[0] * sides[1], x.shape[-1]
    columns = low.operand(x)
    *steps, row, patch = columns.stride
    shape = (*lead, area, patches)
    stride = (*steps, row * area, row, patch)
    if _side_by_side(sides, dilations, paddings, strides) and height % sides[0] == width % sides[1] == 0:
        down, across = height // sides[0], width // sides[1]
        shape = (*lead, down, sides[0], across, sides[1])
        stride = (*steps, row * area, patch * across, row * sides[1], patch, row)
        return low.to_layout(contiguous(low.b, Operand(columns.tensor, shape, stride, columns.offset)), out)
    table = _pixels_first(low, Operand(columns.tensor, shape, stride, columns.offset))
    pixels = _places(sides, dilations, paddings, strides, height, width).reshape(-1)
    total: int | None = None
    for sources in _contributions(pixels, height * width):
        added = _rows(low, table, sources)
        total = added if total is None else low.b.op("add", total, added)
    assert total is not None
    return _pixels_last(total, (height, width, *lead))


def _side_by_side(sides: _Pair, dilations: _Pair, paddings: _Pair, strides: _Pair) -> bool:
    """Whether each pixel belongs to one patch, so that patches are views."""
    return tuple(sides) == tuple(strides) and set(dilations) == {1} and set(paddings) == {0}


def _places(sides: _Pair, dilations: _Pair, paddings: _Pair, strides: _Pair, height: int, width: int) -> torch.Tensor:
    """The number of each patch's pixels in the picture, [patch pixels, patches]; -1 beside it."""
    numbers = torch.arange(1, height * width + 1, dtype=torch.float64).reshape(1, 1, height, width)
    return torch.ops.aten.im2col(numbers, sides, dilations, paddings, strides)[0].long() - 1


def _contributions(pixels: torch.Tensor, count: int) -> list[torch.Tensor]:
    """For each of `count` pixels one of the places where it occurs, -1 where there is none; as often as needed."""
    order = torch.argsort(pixels, stable=True)
    pixel, times = torch.unique_consecutive(pixels[order], return_counts=True)
    starts = times.cumsum(0) - times
    inside = pixel >= 0
    found = []
    for turn in range(int(times[inside].max())):
        left = inside & (times > turn)
        sources = torch.full((count,), -1, dtype=torch.int64)
        sources[pixel[left]] = order[starts[left] + turn]
        found.append(sources)
    return found


def _pixels_first(low: Lowering, x: Operand) -> int:
    """x [batch, channels, .., ..] with a row of [batch * channels] for each element of its last two dimensions."""
    rank = len(x.shape)
    moved = x.permuted((rank - 2, rank - 1, *range(rank - 2)))
    return low.b.reshape(contiguous(low.b, moved), (math.prod(x.shape[-2:]), math.prod(x.shape[:-2])))


def _pixels_last(tensor: int, shape: Shape) -> Operand:
    """Such rows, [.., .., batch, channels], in torch's order again."""
    return Operand(tensor, shape, contiguous_stride(shape)).permuted((*range(2, len(shape)), 0, 1))


def _rows(low: Lowering, table: int, numbers: torch.Tensor) -> int:
    """Rows of a table by their numbers; -1 is a row of zeros."""
    b = low.b
    flat = numbers.reshape(-1)
    if bool((flat < 0).any()):
        zeros = b[table].ne[1]
        nothing = dict.fromkeys(("l0", "r0", "l1", "l2", "r2", "l3", "r3"), 0)
        table = b.op("pad", table, r1=1, **nothing)
        flat = torch.where(flat < 0, zeros, flat)
    return b.op("get_rows", table, b.constant(flat.to(torch.int32).numpy()))
