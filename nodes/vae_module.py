"""The autoencoder inside ComfyUI's VAE: encoding and decoding in the runner, whole or in tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.model import AttnBlock
from torch import Tensor

from ..native.placement import Placement
from ..native.weights import WeightSet
from .attention import image_attention
from .remote_module import RemoteModule
from .tiling import Tiling, map_tiles, tile_count

MODES = ("auto", "on", "off")


@dataclass(frozen=True)
class TileChoice:
    """How the node cuts pictures: `auto` cuts what has more pixels than a tile, `on` what is larger on any side."""

    mode: str  # one of MODES
    tile: int  # pixels
    overlap: int  # pixels

    def cuts(self, height: int, width: int) -> bool:
        """Whether a picture of this size (pixels) is cut."""
        if self.mode == "auto":
            return height * width > self.tile**2
        return self.mode == "on" and max(height, width) > self.tile


class VAEModule(RemoteModule):
    """Stands for comfy.ldm.models.autoencoder.AutoencoderKL."""

    def __init__(
        self, core: torch.nn.Module, weights: WeightSet, placement: Placement, ratio: int, tiles: TileChoice
    ) -> None:
        """core: on the meta device; ratio: pixels per latent, along a side."""
        for part in core.modules():
            if isinstance(part, AttnBlock):
                part.optimized_attention = image_attention
        super().__init__(core, weights, placement, wide=True)
        self.ratio = ratio
        self.tiles = tiles

    def decode(self, z: Tensor, **_: Any) -> Tensor:
        """z: [batch, channels, height, width]. Returns [batch, 3, height * ratio, width * ratio], about -1 to 1."""
        tile, overlap = self.tiles.tile // self.ratio, self.tiles.overlap // self.ratio
        if self.tiles.cuts(z.shape[2] * self.ratio, z.shape[3] * self.ratio):
            return self.decode_tiled(z, tile, tile, overlap)
        pixels = torch.cat([self._decode(image) for image in z.split(1)])
        self.residency.end_phase()
        return pixels

    def encode(self, x: Tensor, **_: Any) -> Tensor:
        """x: [batch, 3, height, width], -1 to 1. Returns [batch, channels, height / ratio, width / ratio]."""
        if self.tiles.cuts(x.shape[2], x.shape[3]):
            return self.encode_tiled(x, self.tiles.tile, self.tiles.tile, self.tiles.overlap)
        latents = torch.cat([self._encode(image) for image in x.split(1)])
        self.residency.end_phase()
        return latents

    def decode_tiled(self, z: Tensor, tile_x: int = 64, tile_y: int = 64, overlap: int = 16, **_: Any) -> Tensor:
        """As `decode`, in tiles; tile and overlap in latents."""
        return self._map(self._decode, z, Tiling(tile_y, tile_x, overlap), Fraction(self.ratio))

    def encode_tiled(self, x: Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64, **_: Any) -> Tensor:
        """As `encode`, in tiles; tile and overlap in pixels, rounded to whole latents."""
        tile_x, tile_y, overlap = (size // self.ratio * self.ratio for size in (tile_x, tile_y, overlap))
        return self._map(self._encode, x, Tiling(tile_y, tile_x, overlap), Fraction(1, self.ratio))

    def _map(self, function: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, scale: Fraction) -> Tensor:
        progress = comfy.utils.ProgressBar(tile_count(x, tiling))

        def one(tile: Tensor) -> Tensor:
            result = function(tile)
            progress.update(1)
            return result

        result = map_tiles(one, x, tiling, scale)
        self.residency.end_phase()
        return result

    def _decode(self, z: Tensor) -> Tensor:
        def decode(core: Any, tensors: dict[str, Tensor]) -> Tensor:
            return core.decode(tensors["z"])

        (pixels,) = self.compute("decode", decode, {"z": z})
        return pixels.to(z.device)

    def _encode(self, x: Tensor) -> Tensor:
        def encode(core: Any, tensors: dict[str, Tensor]) -> Tensor:
            return core.encode(tensors["x"])

        (latents,) = self.compute("encode", encode, {"x": x})
        return latents.to(x.device)
