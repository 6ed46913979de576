"""Chooses the size of tiles by the node's inputs and by what fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .tiling import Tiling, even_tile

MODES = ("auto", "on", "off")
GRID = 8  # pixels; tiles and overlaps are whole latents
SMALLEST = 64  # pixels
# FLUX.1's VAE decodes 512 pixels in 960 MiB, 1024 in 3,840 and 4096 in 60 GiB: free RAM is no reason to take it.
CPU_TILE = 512
_PARTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)  # tiles along the longer side


@dataclass(frozen=True)
class TileChoice:
    """The node's inputs: `auto` cuts pictures of more pixels than a tile, `on` those larger than one on any side."""

    mode: str  # one of MODES
    tile: int  # pixels; 0: the largest that fits
    overlap: int  # pixels

    def ways(self, height: int, width: int, on_cpu: bool) -> Iterator[Tiling]:
        """Ways to cut a picture (all in pixels), the best first; a tile as large as the picture leaves it whole."""
        longer = max(height, width)
        side = self.tile or (CPU_TILE if on_cpu else longer)
        if self._cuts(height, width, side):
            yield Tiling(side, side, self.overlap)
        else:
            yield Tiling(height, width, 0)
            side = longer
        if self.mode == "off" or (self.mode == "on" and self.tile):
            return
        for parts in _PARTS:
            part = even_tile(longer, parts, self.overlap, GRID)
            if part < max(2 * self.overlap, SMALLEST):
                return
            if part < side:
                yield Tiling(self._even(height, part), self._even(width, part), self.overlap)

    def _cuts(self, height: int, width: int, side: int) -> bool:
        if self.mode == "auto":
            return height * width > side**2
        return self.mode == "on" and max(height, width) > side

    def _even(self, length: int, tile: int) -> int:
        """The smallest tile with which no more of them cover an axis."""
        if length <= tile:
            return tile
        parts = -(-(length - self.overlap) // (tile - self.overlap))
        return even_tile(length, parts, self.overlap, GRID)


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
