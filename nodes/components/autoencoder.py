"""The autoencoder inside ComfyUI's VAE: encoding and decoding in the runner, whole or in tiles."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.model import AttnBlock
from torch import Tensor

from ...native.placement import CPU, Placement
from ...native.weights import WeightSet
from .attention_override import image_attention
from .component import Component, Function
from .tile_choice import TileChoice
from .tiling import Tiling


class VAEModule(Component):
    """Stands for comfy.ldm.models.autoencoder.AutoencoderKL."""

    def __init__(
        self, core: torch.nn.Module, weights: WeightSet, placement: Placement, ratio: int, tiles: TileChoice
    ) -> None:
        """core: on the meta device; ratio: pixels per latent, along a side."""
        for part in core.modules():
            if isinstance(part, AttnBlock):
                part.optimized_attention = image_attention
        super().__init__(core, weights, placement, f16_overflow=True)
        self.ratio = ratio
        self.tiles = tiles
        self.oom_retryable = tiles.mode == "auto"  # ComfyUI would cut tiles where the user has said which, or none

    def decode(self, z: Tensor, **_: Any) -> Tensor:
        """z: [batch, channels, height, width]. Returns [batch, 3, height * ratio, width * ratio], about -1 to 1."""
        tiling = self._chosen("decode", _decode, z, self.ratio)
        return self._map(self._decode, z, tiling, Fraction(self.ratio))

    def encode(self, x: Tensor, **_: Any) -> Tensor:
        """x: [batch, 3, height, width], -1 to 1. Returns [batch, channels, height / ratio, width / ratio]."""
        return self._map(self._encode, x, self._chosen("encode", _encode, x, 1), Fraction(1, self.ratio))

    def decode_tiled(self, z: Tensor, tile_x: int = 64, tile_y: int = 64, overlap: int = 16, **_: Any) -> Tensor:
        """As `decode`, in tiles; tile and overlap in latents."""
        return self._map(self._decode, z, Tiling(tile_y, tile_x, overlap), Fraction(self.ratio))

    def encode_tiled(self, x: Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64, **_: Any) -> Tensor:
        """As `encode`, in tiles; tile and overlap in pixels, rounded to whole latents."""
        tile_x, tile_y, overlap = (size // self.ratio * self.ratio for size in (tile_x, tile_y, overlap))
        return self._map(self._encode, x, Tiling(tile_y, tile_x, overlap), Fraction(1, self.ratio))

    def _chosen(self, key: str, function: Function, x: Tensor, pixels: int) -> Tiling:
        """The first way to cut x that fits, or the last there is; pixels: of an element of x, along a side."""
        height, width = x.shape[2] * pixels, x.shape[3] * pixels
        ways = list(self.tiles.ways(height, width, self.engine_model.placement.device == CPU))
        for way in ways:
            tiling = Tiling(way.height // pixels, way.width // pixels, way.overlap // pixels)
            tile = x[:1, :, : tiling.height, : tiling.width]
            if way is ways[-1] or self.fits(key, function, {"x": tile}):
                break
        return tiling

    def _map(self, function: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, scale: Fraction) -> Tensor:
        result = self.host.map_tiles(function, x, tiling, scale)
        self.loaded.end_phase()
        return result

    def _decode(self, z: Tensor) -> Tensor:
        (pixels,) = self.compute("decode", _decode, {"x": z})
        return pixels.to(z.device)

    def _encode(self, x: Tensor) -> Tensor:
        (latents,) = self.compute("encode", _encode, {"x": x})
        return latents.to(x.device)


def _decode(core: Any, tensors: dict[str, Tensor]) -> Tensor:
    return core.decode(tensors["x"])


def _encode(core: Any, tensors: dict[str, Tensor]) -> Tensor:
    return core.encode(tensors["x"])
