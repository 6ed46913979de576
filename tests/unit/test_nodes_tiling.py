"""Tiles: one shape, exact where the function is local, no seam where it is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.pack import part

tiling = part("nodes.components.tiling")
same = tiling.Axis(lambda n: n, lambda n: n)
larger = tiling.Axis(lambda n: 8 * n, lambda n: 8 * n)
smaller = tiling.Axis(lambda n: n // 8, lambda n: n // 8)
causal = tiling.Axis(lambda n: 4 * n - 3, lambda n: 4 * n)  # time of a video, whose first frame stands alone
frames = tiling.Axis(lambda n: (n + 3) // 4, lambda n: n // 4)


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

    result = tiling.map_tiles(function, x, tiling.Tiling((64, 48), (overlap, overlap)), (larger, larger))
    torch.testing.assert_close(result, enlarge(x))
    assert shapes == {(1, 3, min(64, height), min(48, width))}


def test_shrinking_function_is_exact() -> None:
    x = torch.rand(1, 3, 256, 328)
    shrink = torch.nn.AvgPool2d(8)
    result = tiling.map_tiles(shrink, x, tiling.Tiling((128, 64), (32, 32)), (smaller, smaller))
    torch.testing.assert_close(result, shrink(x))


def test_count_is_the_number_of_calls() -> None:
    x, cut, calls = torch.rand(3, 1, 50, 70), tiling.Tiling((16, 32), (4, 4)), []

    def function(tile: Tensor) -> Tensor:
        calls.append(1)
        return tile

    tiling.map_tiles(function, x, cut, (same, same))
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
        tiling.Tiling((4, 64), (overlap, overlap)),
        (same, same),
    )[0, 0, 0]
    assert result[0] == 0.0
    assert result[80] == 1.0
    assert result.diff().abs().max() < 1.5 / overlap


def first_frame_alone(x: Tensor) -> Tensor:
    """Latent 0 becomes frame 0, each later one the four frames up to its own."""
    return enlarge(x.repeat_interleave(4, 2)[:, :, 3:].flatten(0, 2)[:, None]).reshape(
        *x.shape[:2], 4 * x.shape[2] - 3, 8 * x.shape[3], 8 * x.shape[4]
    )


@pytest.mark.parametrize(("latents", "tile", "overlap"), [(21, 8, 1), (21, 6, 2), (5, 4, 1), (7, 9, 1), (1, 4, 1)])
def test_a_video_is_cut_in_time_where_its_frames_are(latents: int, tile: int, overlap: int) -> None:
    """Every frame comes from the same latents as in the whole; tiles' first frames have no latents before them."""
    x, shapes = torch.rand(2, 3, latents, 10, 6), set()

    def function(tile: Tensor) -> Tensor:
        shapes.add(tuple(tile.shape))
        return first_frame_alone(tile)

    cut = tiling.Tiling((tile, 4, 4), (overlap, 2, 2))
    torch.testing.assert_close(
        tiling.map_tiles(function, x, cut, (causal, larger, larger)), first_frame_alone(x), rtol=1e-6, atol=1e-6
    )
    assert shapes == {(1, 3, min(tile, latents), 4, 4)}


def test_frames_are_put_back_at_their_latents() -> None:
    video = torch.rand(1, 2, 33, 1, 1)
    cut = tiling.Tiling((13, 1, 1), (5, 0, 0))
    result = tiling.map_tiles(lambda tile: tile[:, :, ::4], video, cut, (frames, same, same))
    torch.testing.assert_close(result, video[:, :, ::4])


def test_sound_is_cut_along_its_last_dimension() -> None:
    """Latents of ACE-Step have two dimensions before time."""
    x = torch.rand(2, 8, 16, 70)
    result = tiling.map_tiles(
        lambda tile: tile.flatten(1, 2)[:, :2].repeat_interleave(8, -1), x, tiling.Tiling((20,), (4,)), (larger,)
    )
    torch.testing.assert_close(result, x.flatten(1, 2)[:, :2].repeat_interleave(8, -1))
