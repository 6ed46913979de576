"""Tiles: one shape, exact where the function is local, no seam where it is not."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from tests.pack import part

tiling = part("nodes.components.tiling")


def enlarge(x: Tensor) -> Tensor:
    return x.repeat_interleave(8, 2).repeat_interleave(8, 3)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 65), (40, 200), (16, 130), (127, 20)])
@pytest.mark.parametrize("overlap", [0, 8, 32])
def test_local_function_is_exact_and_every_tile_has_one_shape(height: int, width: int, overlap: int) -> None:
    x = torch.rand(2, 3, height, width)
    shapes = set()

    def function(tile: Tensor) -> Tensor:
        shapes.add(tuple(tile.shape))
        return enlarge(tile)

    result = tiling.map_tiles(function, x, tiling.Tiling(64, 48, overlap), Fraction(8))
    torch.testing.assert_close(result, enlarge(x))
    assert shapes == {(1, 3, min(64, height), min(48, width))}


def test_shrinking_function_is_exact() -> None:
    x = torch.rand(1, 3, 256, 328)
    shrink = torch.nn.AvgPool2d(8)
    result = tiling.map_tiles(shrink, x, tiling.Tiling(128, 64, 32), Fraction(1, 8))
    torch.testing.assert_close(result, shrink(x))


def test_count_is_the_number_of_calls() -> None:
    x, cut, calls = torch.rand(3, 1, 50, 70), tiling.Tiling(16, 32, 4), []

    def function(tile: Tensor) -> Tensor:
        calls.append(1)
        return tile

    tiling.map_tiles(function, x, cut, Fraction(1))
    assert len(calls) == tiling.tile_count(x, cut)


def test_last_tile_ends_where_the_axis_ends() -> None:
    assert tiling.tile_starts(64, 64, 8) == [0]
    assert tiling.tile_starts(65, 64, 8) == [0, 1]
    assert tiling.tile_starts(176, 64, 8) == [0, 56, 112]


def test_tiles_that_disagree_meet_without_a_step() -> None:
    """Each tile answers with its own grey, as a VAE's group norms make it do; neighbours must fade into each other."""
    greys = iter([0.0, 1.0, 0.0])
    overlap = 16
    result = tiling.map_tiles(
        lambda tile: torch.full_like(tile, next(greys)),
        torch.zeros(1, 1, 4, 160),
        tiling.Tiling(4, 64, overlap),
        Fraction(1),
    )[0, 0, 0]
    assert result[0] == 0.0
    assert result[80] == 1.0
    assert result.diff().abs().max() < 1.5 / overlap
