"""Cutting pictures, videos and sound into overlapping tiles of one size, so that one program serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """Size of a tile and how much neighbours share, along each axis that is cut, in elements of the tensor."""

    size: tuple[int, ...]
    overlap: tuple[int, ...]


@dataclass(frozen=True)
class Axis:
    """An axis under a function: the length that n elements get, and where begins what begins at element n."""

    length: Callable[[int], int]
    position: Callable[[int], int]


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along an axis; the last one is moved back to end where the axis ends."""
    if length <= tile:
        return [0]
    step = tile - overlap
    return [*range(0, length - tile, step), length - tile]


def even_tile(length: int, parts: int, overlap: int, grid: int) -> int:
    """The smallest tile, a multiple of `grid`, of which `parts` cover an axis."""
    return -(-(length + (parts - 1) * overlap) // (parts * grid)) * grid


def tile_count(x: Tensor, tiling: Tiling) -> int:
    """Tiles that `map_tiles` makes of x: [batch, ..., *axes]."""
    return x.shape[0] * len(list(_corners(x, tiling)))


def is_whole(x: Tensor, tiling: Tiling) -> bool:
    """Whether x is no larger than a tile."""
    return all(n <= tile for n, tile in zip(_axes(x, tiling), tiling.size, strict=True))


def first_tile(x: Tensor, tiling: Tiling) -> Tensor:
    """The first tile of x: [batch, ..., *axes]; without the rest of the batch."""
    return _tile(x, 0, [0] * len(tiling.size), tiling)


class NotByAxes(Exception):
    """A tile became longer or shorter than axes say along those that are cut; numbers: of these axes."""

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__(f"tiles cannot be joined along the axes {list(numbers)}")
        self.numbers = tuple(numbers)


def mapped_shape(x: Tensor, tile: Tensor, tiling: Tiling, axes: Sequence[Axis]) -> tuple[int, ...]:
    """The shape of what `map_tiles` makes of x where it makes this of the first tile.

    An axis that is not cut is as long as in the tile. Raises NotByAxes.
    """
    lengths, wrong = [], []
    first = tile.ndim - len(axes)
    for number, (axis, n, size) in enumerate(zip(axes, _axes(x, tiling), tiling.size, strict=True)):
        made = tile.shape[first + number]
        lengths.append(made if n <= size else axis.length(n))
        if n > size and made != axis.length(size):
            wrong.append(number)
    if wrong:
        raise NotByAxes(wrong)
    return x.shape[0], *tile.shape[1:first], *lengths


def map_tiles(function: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, axes: Sequence[Axis]) -> Tensor:
    """`function` applied to every tile of x, its results blended into one.

    x: [batch, ..., *axes]; function takes [1, ..., *tile] and returns each axis as long as `axes` say. Where tiles
    overlap the weight of each falls linearly towards its edge, so no seam is seen. Raises NotByAxes.
    """
    result: Tensor | None = None
    total: Tensor | None = None
    for image in range(x.shape[0]):
        for corner in _corners(x, tiling):
            tile = function(_tile(x, image, corner, tiling))[0]
            if result is None or total is None:
                shape = mapped_shape(x, tile[None], tiling, axes)
                result, total = tile.new_zeros(shape), tile.new_zeros(shape[len(shape) - len(axes) :])
            places = [
                slice(axis.position(start), axis.position(start) + n) if start else slice(0, n)
                for axis, start, n in zip(axes, corner, tile.shape[tile.ndim - len(axes) :], strict=True)
            ]
            overlaps = [axis.length(n) for axis, n in zip(axes, tiling.overlap, strict=True)]
            weight = _weight(places, total.shape, overlaps)
            result[image][_at(places)] += tile * weight
            if image == 0:
                total[_at(places)] += weight
    assert result is not None
    assert total is not None
    return result.div_(total)


def _axes(x: Tensor, tiling: Tiling) -> tuple[int, ...]:
    return tuple(x.shape[x.ndim - len(tiling.size) :])


def _corners(x: Tensor, tiling: Tiling) -> Iterator[tuple[int, ...]]:
    each = zip(_axes(x, tiling), tiling.size, tiling.overlap, strict=True)
    return product(*(tile_starts(length, tile, overlap) for length, tile, overlap in each))


def _tile(x: Tensor, image: int, corner: Sequence[int], tiling: Tiling) -> Tensor:
    windows = [slice(start, start + n) for start, n in zip(corner, tiling.size, strict=True)]
    return x[image : image + 1][_at(windows)]


def _at(windows: Sequence[slice]) -> Any:
    """The index of windows along the last dimensions."""
    return (..., *windows)


def _weight(places: Sequence[slice], lengths: Sequence[int], overlaps: Sequence[int]) -> Tensor:
    """The product of a tile's weights along its axes."""
    ramps = [_ramp(*each) for each in zip(places, lengths, overlaps, strict=True)]
    return reduce(lambda product, ramp: product[..., None] * ramp, ramps)


def _ramp(window: slice, length: int, overlap: int) -> Tensor:
    """Weights of one tile along an axis: 1, falling over `overlap` elements towards edges inside the whole."""
    size = window.stop - window.start
    rise = (torch.arange(size) + 1) / (overlap + 1)
    weight = torch.ones(size)
    if window.start > 0:
        weight = torch.minimum(weight, rise)
    if window.stop < length:
        weight = torch.minimum(weight, rise.flip(0))
    return weight
