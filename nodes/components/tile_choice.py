"""Chooses the size of tiles by the node's inputs and by what fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from .tiling import Tiling, even_tile

MODES = ("auto", "on", "off")
GRID = 8  # pixels; tiles and overlaps are whole latents
SMALLEST = 64  # pixels
# FLUX.1's VAE decodes 512 pixels in 960 MiB, 1024 in 3,840 and 4096 in 60 GiB: free RAM is no reason to take it.
CPU_TILE = 512
# 81 frames of 832x480 take 6 to 24 GB as a whole, tiles of 256 pixels 0.7 to 3 (tests/bench/video_vae.py). Those are
# ComfyUI's own where memory runs out (comfy/sd.py), and so are the latents of sound and of time.
VIDEO_TILE = 256  # pixels, and the smallest before time is cut
SOUND_TILE, SOUND_OVERLAP = 256, 32  # latents
TIME_OVERLAP = 2  # latents, 8 frames
_PARTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)  # tiles along the longer side, or along time


@dataclass(frozen=True)
class TileChoice:
    """The node's inputs: `auto` cuts pictures of more pixels than a tile, `on` those larger than one on any side."""

    mode: str  # one of MODES
    tile: int  # pixels; 0: the largest that fits
    overlap: int  # pixels

    def ways(self, size: Sequence[int], on_cpu: bool, grid: int = GRID) -> Iterator[Tiling]:
        """Ways to cut, the best first; a tile as large as the whole leaves it whole.

        size: height and width of a picture in pixels, with the latents along time before them of a video, or the
        latents of sound; tiles are in the same units. grid: pixels of a latent.
        """
        if len(size) == 1:
            return self._of_time(size[0], SOUND_TILE if on_cpu else size[0], SOUND_OVERLAP)
        if len(size) == 2:
            return self._of_picture(size[0], size[1], CPU_TILE if on_cpu else max(size), max(grid, GRID))
        return self._of_video(size[0], size[1], size[2], on_cpu, max(grid, GRID))

    def _of_picture(self, height: int, width: int, largest: int, grid: int) -> Iterator[Tiling]:
        longer, overlaps = max(height, width), (self.overlap, self.overlap)
        side = self.tile or largest
        if self._cuts(height, width, side):
            yield Tiling((side, side), overlaps)
        else:
            yield Tiling((height, width), (0, 0))
            side = longer
        if self.mode == "off" or (self.mode == "on" and self.tile):
            return
        for parts in _PARTS:
            part = even_tile(longer, parts, self.overlap, grid)
            if part < max(2 * self.overlap, SMALLEST):
                return
            if part < side:
                yield Tiling((self._even(height, part, grid), self._even(width, part, grid)), overlaps)

    def _of_time(self, latents: int, largest: int, overlap: int) -> Iterator[Tiling]:
        if self.mode == "off" or latents <= largest:
            yield Tiling((latents,), (0,))
            largest = latents
        else:
            yield Tiling((largest,), (overlap,))
        for parts in _PARTS if self.mode != "off" else ():
            part = even_tile(latents, parts, overlap, 1)
            if 2 * overlap <= part < largest:
                yield Tiling((part,), (overlap,))

    def _of_video(self, latents: int, height: int, width: int, on_cpu: bool, grid: int) -> Iterator[Tiling]:
        """Pictures are cut first, as every frame hangs on those before it, then time, then pictures further."""
        pictures = list(self._of_picture(height, width, VIDEO_TILE if on_cpu else max(height, width), grid))
        times = list(self._of_time(latents, latents, TIME_OVERLAP))
        if self.mode == "on" and self.tile:
            times = times[:1]
        large = [each for number, each in enumerate(pictures) if number == 0 or max(each.size) >= VIDEO_TILE]
        small = pictures[len(large) :]
        for time, picture in [*product(times[:1], large), *product(times[1:], large[-1:]), *product(times[-1:], small)]:
            yield Tiling(time.size + picture.size, time.overlap + picture.overlap)

    def _cuts(self, height: int, width: int, side: int) -> bool:
        if self.mode == "auto":
            return height * width > side**2
        return self.mode == "on" and max(height, width) > side

    def _even(self, length: int, tile: int, grid: int) -> int:
        """The smallest tile with which no more of them cover an axis."""
        if length <= tile:
            return tile
        parts = -(-(length - self.overlap) // (tile - self.overlap))
        return even_tile(length, parts, self.overlap, grid)


def check_tiles(tile: int, overlap: int) -> bool | str:
    """True, or what is wrong with a size of tiles (pixels)."""
    for name, size in (("tile_size", tile), ("overlap", overlap)):
        if size % GRID:
            near = round(size / GRID) * GRID
            return f"{name} is {size} pixels, but must be a multiple of {GRID}: {near} is the nearest."
    if 0 < tile < SMALLEST:
        return f"tile_size is {tile} pixels; the smallest tile is {SMALLEST}. 0 takes the largest that fits."
    if not 0 <= overlap <= (tile or CPU_TILE) // 2:
        return (
            f"overlap is {overlap} pixels; with a tile_size of {tile} it can be 0 to {(tile or CPU_TILE) // 2}. "
            "64 is usual."
        )
    return True
