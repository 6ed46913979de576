"""Which ways to cut a picture are tried, and in which order."""

from __future__ import annotations

import pytest

from tests.pack import part

TileChoice = part("nodes.components.tile_choice").TileChoice
tile_starts = part("nodes.components.tiling").tile_starts
Sizes = list[tuple[int, int]]


def sizes(mode: str, tile: int, height: int, width: int, on_cpu: bool = False, overlap: int = 64) -> Sizes:
    return [way.size for way in TileChoice(mode, tile, overlap).ways((height, width), on_cpu)]


@pytest.mark.parametrize(
    ("mode", "size", "cut"),
    [
        ("auto", (512, 512), False),
        ("auto", (256, 1024), False),
        ("auto", (520, 512), True),
        ("on", (256, 1024), True),
        ("on", (512, 512), False),
        ("off", (4096, 4096), False),
    ],
)
def test_when_pictures_are_cut(mode: str, size: tuple[int, int], cut: bool) -> None:
    assert sizes(mode, 512, *size)[0] == ((512, 512) if cut else size)


def test_a_gpu_tries_the_whole_picture_and_then_as_few_even_tiles_as_there_can_be() -> None:
    squares = [(side, side) for side in (1024, 544, 384, 304, 224, 184, 144, 128)]
    assert sizes("auto", 0, 1024, 1024) == squares


def test_sizes_of_ones_own_are_exact_and_only_auto_goes_below_them() -> None:
    assert sizes("on", 512, 1024, 1024) == [(512, 512)]
    assert sizes("off", 512, 1024, 1024) == sizes("off", 0, 1024, 1024) == [(1024, 1024)]
    assert sizes("auto", 512, 1024, 1024)[:2] == [(512, 512), (384, 384)]


def test_the_cpu_takes_tiles_of_512_pixels_unless_told_otherwise() -> None:
    assert sizes("auto", 0, 4096, 4096, on_cpu=True)[0] == (512, 512)
    assert sizes("auto", 0, 512, 512, on_cpu=True)[0] == (512, 512)
    assert sizes("auto", 1024, 4096, 4096, on_cpu=True)[0] == (1024, 1024)


@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (832, 1216), (2048, 512), (1000, 4096)])
def test_tiles_of_all_ways_are_smaller_one_after_the_other_and_whole_latents(height: int, width: int) -> None:
    ways = sizes("auto", 0, height, width)
    areas = [min(a, height) * min(b, width) for a, b in ways]
    assert areas == sorted(areas, reverse=True)
    assert len(ways) >= 4
    for tile_height, tile_width in ways[1:]:
        assert tile_height % 8 == tile_width % 8 == 0
        for length, side in ((height, tile_height), (width, tile_width)):
            tiles = len(tile_starts(length, side, 64))
            assert tiles == 1 or len(tile_starts(length, side - 8, 64)) > tiles  # no more than they need overlap


def test_a_video_is_cut_along_its_sides_before_time() -> None:
    """81 frames of 832x480: 21 latents."""
    ways = list(TileChoice("auto", 0, 64).ways((21, 480, 832), False))
    assert [way.size for way in ways][:5] == [
        (21, 480, 832), (21, 272, 448), (21, 272, 320), (21, 208, 256), (12, 208, 256),
    ]  # fmt: skip
    assert {way.overlap for way in ways if way.size[0] < 21} == {(2, 64, 64)}
    amounts = [way.size[0] * way.size[1] * way.size[2] for way in ways]
    assert amounts == sorted(amounts, reverse=True)
    assert ways[-1].size[0] == min(way.size[0] for way in ways) >= 4
    assert max(ways[-1].size[1:]) < 256


def test_the_cpu_takes_all_frames_of_256_pixels() -> None:
    assert next(TileChoice("auto", 0, 64).ways((21, 480, 832), True)).size == (21, 256, 256)
    assert [way.size for way in TileChoice("on", 128, 64).ways((21, 480, 832), True)] == [(21, 128, 128)]
    assert [way.size for way in TileChoice("off", 0, 64).ways((21, 480, 832), True)] == [(21, 480, 832)]


def test_sound_is_cut_along_time() -> None:
    """60 s of Stable Audio: 1292 latents."""
    ways = list(TileChoice("auto", 0, 64).ways((1292,), False))
    assert [way.size for way in ways] == [(1292,), (662,), (452,), (347,), (242,), (190,), (137,), (111,), (85,), (72,)]
    assert {way.overlap for way in ways[1:]} == {(32,)}
    assert next(TileChoice("auto", 0, 64).ways((1292,), True)).size == (256,)
    assert [way.size for way in TileChoice("off", 0, 64).ways((1292,), True)] == [(1292,)]


def test_tiles_are_whole_latents_of_32_pixels() -> None:
    """LTX-Video's."""
    for way in TileChoice("auto", 0, 64).ways((11, 480, 832), False, 32):
        assert way.size[1] % 32 == way.size[2] % 32 == 0
