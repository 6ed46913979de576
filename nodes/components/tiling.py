"""Cutting a picture into overlapping tiles of one size, so that one program serves all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """Size of a tile and how much neighbours share, in elements of the tensor that is cut."""

    height: int
    width: int
    overlap: int


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
    """Tiles that `map_tiles` makes of x: [batch, channels, height, width]."""
    return x.shape[0] * len(list(_corners(x, tiling)))


def scaled_size(x: Tensor, scale: Fraction) -> tuple[int, int]:
    """Height and width of what is `scale` times as large as x: [batch, channels, height, width]."""
    return int(x.shape[2] * scale), int(x.shape[3] * scale)


def map_tiles(function: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, scale: Fraction) -> Tensor:
    """`function` applied to every tile of x, its results blended into one.

    x: [batch, channels, height, width]; function takes [1, channels, tile height, tile width] and returns the tile
    `scale` times as large. Where tiles overlap the weight of each falls linearly towards its edge, so no seam is seen.
    """
    result: Tensor | None = None
    total: Tensor | None = None
    for image in range(x.shape[0]):
        for top, left in _corners(x, tiling):
            tile = function(x[image : image + 1, :, top : top + tiling.height, left : left + tiling.width])
            if result is None or total is None:
                height, width = scaled_size(x, scale)
                result = tile.new_zeros(x.shape[0], tile.shape[1], height, width)
                total = tile.new_zeros(x.shape[0], 1, height, width)
            rows = slice(int(top * scale), int(top * scale) + tile.shape[2])
            columns = slice(int(left * scale), int(left * scale) + tile.shape[3])
            weight = _ramp(rows, result.shape[2], int(tiling.overlap * scale))[:, None]
            weight = weight * _ramp(columns, result.shape[3], int(tiling.overlap * scale))[None, :]
            result[image, :, rows, columns] += tile[0] * weight
            total[image, :, rows, columns] += weight
    assert result is not None
    assert total is not None
    return result / total


def _corners(x: Tensor, tiling: Tiling) -> Iterator[tuple[int, int]]:
    rows = tile_starts(x.shape[2], tiling.height, tiling.overlap)
    return product(rows, tile_starts(x.shape[3], tiling.width, tiling.overlap))


def _ramp(window: slice, length: int, overlap: int) -> Tensor:
    """Weights of one tile along an axis: 1, falling over `overlap` elements towards edges inside the picture."""
    size = window.stop - window.start
    rise = (torch.arange(size) + 1) / (overlap + 1)
    weight = torch.ones(size)
    if window.start > 0:
        weight = torch.minimum(weight, rise)
    if window.stop < length:
        weight = torch.minimum(weight, rise.flip(0))
    return weight
