"""The autoencoder inside ComfyUI's VAE: encoding and decoding in the runner, whole or in tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ...native.placement import CPU, Placement
from ...native.weights import WeightSet
from .attention_override import image_attention, own_attention
from .component import Function
from .kept_programs import storable
from .latent_axes import LatentAxis
from .layers import Layer
from .tile_choice import TileChoice
from .tiling import Axis, NotByAxes, Tiling, first_tile, is_whole
from .traced_module import TracedModule


class VAEModule(TracedModule):
    """Stands for the first stage model of a comfy.sd.VAE: of pictures, of video, of sound or of shapes.

    Latents are [batch, channels, height, width], [batch, channels, time, height, width], or [batch, ..., time].
    """

    input_words: Mapping[str, str] = {"x": "The latent, picture or sound", "z": "The latent"}
    comfy_has_chunked_io = False  # core's own VAE would have it write into a buffer

    def __init__(
        self, core: torch.nn.Module, weights: WeightSet, placement: Placement, axes: Sequence[LatentAxis],
        tiles: TileChoice,
    ) -> None:  # fmt: skip
        """core: on the meta device; axes: those that can be cut, as latent_axes has them."""
        for part in core.modules():
            if "optimized_attention" in vars(part):  # of pictures, as comfy.ldm.modules.diffusionmodules.model has it
                part.optimized_attention = image_attention  # type: ignore[assignment]
        super().__init__(core, weights, placement, f16_overflow=True)
        self.axes = tuple(axes)
        self.tiles = tiles
        self.oom_retryable = tiles.mode == "auto"  # ComfyUI would cut tiles where the user has said which, or none
        decoder = getattr(core, "decoder", core)
        # SVD's decoder takes the pictures of a batch for the frames of a video.
        self._batch_is_time = len(self.axes) == 2 and any(isinstance(x, torch.nn.Conv3d) for x in decoder.modules())

    def decode(self, z: Tensor, **options: Any) -> Tensor:
        """z: [batch, channels, height, width]. Returns [batch, 3, height * ratio, width * ratio], about -1 to 1.

        So of video and sound, as `axes` say. options: of a node that goes with the model; core's own code goes by them
        then, and only its layers are the engine's.
        """
        if options:
            core: Any = type(self.engine_model.module)
            decoded: Tensor = core.decode(self, z, **options)
            self.loaded.end_phase()
            return decoded
        if self._batch_is_time:
            return self._map(self._decode, z[None], self.decoding_tiles(z), self._decoding)[0]
        return self._map(self._decode, z, self.decoding_tiles(z), self._decoding)

    def decoding_tiles(self, z: Tensor) -> Tiling:
        """The tiles in which latents are decoded: the largest that fit."""
        tilings = [self._of_latents(way) for way in self._ways(self._lengths(z))]
        return self._first_that_fits("decode", _decode, z[None] if self._batch_is_time else z, tilings)

    def encode(self, x: Tensor, **_: Any) -> Tensor:
        """x: [batch, 3, height, width], -1 to 1. Returns [batch, channels, height / ratio, width / ratio]."""
        lengths = self._lengths(x)
        latents = [axis.encode.length(n) for axis, n in zip(self.axes, lengths, strict=True)]
        tilings = [self._of_pixels(self._of_latents(way), lengths) for way in self._ways(latents)]
        return self._encoded(x, self._first_that_fits("encode", _encode, x, tilings))

    def decode_tiled(
        self, z: Tensor, tile_x: int = 64, tile_y: int = 64, overlap: int = 16, tile_t: int | None = None,
        overlap_t: int | None = None, **_: Any,
    ) -> Tensor:  # fmt: skip
        """As `decode`, in tiles; tiles and overlaps in latents."""
        tiling = self._tiling(tile_x, tile_y, overlap, tile_t or max(z.shape), overlap_t or 1)
        if self._batch_is_time:
            return self._map(self._decode, z[None], tiling, self._decoding)[0]
        return self._map(self._decode, z, tiling, self._decoding)

    def encode_tiled(
        self, x: Tensor, tile_x: int = 512, tile_y: int = 512, overlap: int = 64, tile_t: int | None = None,
        overlap_t: int | None = None, **_: Any,
    ) -> Tensor:  # fmt: skip
        """As `encode`, in tiles; tiles and overlaps in pixels, frames or samples, rounded to whole latents."""
        if not self.axes:
            return self._encoded(x, Tiling((), ()))
        lengths = self._lengths(x)
        across, time = self.axes[-1].encode.length, self.axes[0].encode.length
        frames = max(2, time(tile_t or lengths[0]))
        shared = max(1, min(frames // 2, time(overlap_t or 1)))
        tiling = self._tiling(across(tile_x), across(tile_y), across(overlap), frames, shared)
        return self._encoded(x, self._of_pixels(tiling, lengths))

    @property
    def ratio(self) -> int:
        """Pixels of a latent, along a side of pictures; samples of one of sound."""
        return self.axes[-1].ratio if self.axes else 1

    @property
    def _decoding(self) -> tuple[Axis, ...]:
        return tuple(axis.decode for axis in self.axes)

    def _layer(self, layer: torch.nn.Module, name: str) -> Any:
        """A layer without parameters is core's own, with the values of the file; another computes in the engine."""
        if next(layer.parameters(), None) is None:
            return layer
        return Layer(layer, name, self)

    def _method(self, name: str) -> Callable[..., Any]:
        """As TracedModule; a method that is given no tensor is core's own."""
        core = self.engine_model.module

        def method(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(x, Tensor) for x in tree_leaves((args, kwargs))):
                return self.call(name, args, kwargs)
            return getattr(core, name)(*args, **kwargs)

        return method

    def _lengths(self, x: Tensor) -> tuple[int, ...]:
        """The sizes of the axes, of latents or of what they stand for."""
        return tuple(x.shape[x.ndim - len(self.axes) :])

    def _ways(self, latents: Sequence[int]) -> list[Tiling]:
        """Ways to cut latents of that size, the best first; sides in pixels, time in latents."""
        if not self.axes:
            return [Tiling((), ())]
        ratios = self._ratios
        size = [n * ratio for n, ratio in zip(latents, ratios, strict=True)]
        return [*self.tiles.ways(size, self.engine_model.placement.device == CPU, max(ratios))]

    @property
    def _ratios(self) -> tuple[int, ...]:
        """Pixels of a latent along the sides of pictures; 1 along time, of which tiles are chosen in latents."""
        sides = self.axes[-2:] if len(self.axes) > 1 else ()
        return (*[1] * (len(self.axes) - len(sides)), *(axis.ratio for axis in sides))

    def _of_latents(self, way: Tiling) -> Tiling:
        """A way to cut, in latents."""
        ratios = self._ratios
        sizes, overlaps = (
            tuple(n // ratio for n, ratio in zip(each, ratios, strict=True)) for each in (way.size, way.overlap)
        )
        return Tiling(sizes, overlaps)

    def _of_pixels(self, tiling: Tiling, lengths: Sequence[int]) -> Tiling:
        """The tiles that stand for tiles of latents, in what is encoded; lengths: of that."""
        sizes, overlaps = [], []
        for axis, length, tile, overlap in zip(self.axes, lengths, tiling.size, tiling.overlap, strict=True):
            sizes.append(length if tile >= axis.encode.length(length) else axis.decode.length(tile))
            overlaps.append(axis.decode.length(overlap))
        return Tiling(tuple(sizes), tuple(overlaps))

    def _tiling(self, tile_x: int, tile_y: int, overlap: int, tile_t: int, overlap_t: int) -> Tiling:
        """Tiles in latents as ComfyUI's tiled nodes name them; the last frame of one is the first of the next."""
        sizes, overlaps = (tile_t, tile_y, tile_x), (overlap_t, overlap, overlap)
        return Tiling(sizes[3 - len(self.axes) :], overlaps[3 - len(self.axes) :])

    def _first_that_fits(self, key: str, function: Function, x: Tensor, tilings: Sequence[Tiling]) -> Tiling:
        """The first way to cut x that fits, or the last there is."""
        for tiling in tilings[:-1]:
            tile = first_tile(x, tiling)
            tile = tile[0] if key == "decode" and self._batch_is_time else tile
            if self.fits(key, storable(self.engine_model, key, function), {"x": tile}):
                return tiling
        return tilings[-1]

    def _encoded(self, x: Tensor, tiling: Tiling) -> Tensor:
        if not is_whole(x, tiling):  # whole latents, so that the last tile begins at one
            for number, axis in enumerate(self.axes):
                dim = x.ndim - len(self.axes) + number
                x = x.narrow(dim, 0, min(x.shape[dim], axis.decode.length(axis.encode.length(x.shape[dim]))))
        return self._map(self._encode, x, tiling, tuple(axis.encode for axis in self.axes))

    def _map(self, function: Callable[[Tensor], Tensor], x: Tensor, tiling: Tiling, axes: Sequence[Axis]) -> Tensor:
        try:
            result = self.host.map_tiles(function, x, tiling, axes)
        except NotByAxes as error:  # of an autoencoder of which core says otherwise: these are not cut
            lengths = self._lengths(x)
            sizes = [lengths[n] if n in error.numbers else size for n, size in enumerate(tiling.size)]
            overlaps = [0 if n in error.numbers else overlap for n, overlap in enumerate(tiling.overlap)]
            result = self.host.map_tiles(function, x, Tiling(tuple(sizes), tuple(overlaps)), axes)
        self.loaded.end_phase()
        return result

    def _decode(self, z: Tensor) -> Tensor:
        function = storable(self.engine_model, "decode", _decode)
        (pixels,) = self.compute("decode", function, {"x": z[0] if self._batch_is_time else z})
        return (pixels[None] if self._batch_is_time else pixels).to(z.device)

    def _encode(self, x: Tensor) -> Tensor:
        function = storable(self.engine_model, "encode", _encode)
        (latents,) = self.compute("encode", function, {"x": x})
        return latents.to(x.device)


def _decode(core: Any, tensors: dict[str, Tensor]) -> Tensor:
    with own_attention():
        return core.decode(tensors["x"])


def _encode(core: Any, tensors: dict[str, Tensor]) -> Tensor:
    with own_attention():
        return core.encode(tensors["x"])
