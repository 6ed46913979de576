"""How the axes of latents and of what they stand for hang together, as comfy.sd.VAE has it for each autoencoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .tiling import Axis


@dataclass(frozen=True)
class LatentAxis:
    """One axis: what decoding and what encoding makes of it."""

    decode: Axis
    encode: Axis

    @property
    def ratio(self) -> int:
        """Pixels, frames or samples from one latent to the next."""
        return self.decode.position(1)


def latent_axes(vae: Any) -> tuple[LatentAxis, ...]:
    """The axes along which tiles can be cut: time, height and width of a video, the last two of a picture, or time.

    vae: a comfy.sd.VAE. Its ratios are numbers or, as a causal video has its first frame alone, functions. Latents of
    sound may have frequencies, or left and right, before time. No axis where they stand for no place, as of shapes.
    """
    sound = vae.output_channels == 2
    count = 1 if sound else vae.latent_dim if vae.latent_dim > 1 else 0
    up, down = vae.upscale_ratio, vae.downscale_ratio
    up_index, down_index = vae.upscale_index_formula or up, vae.downscale_index_formula or down
    return tuple(
        LatentAxis(
            Axis(_times(_of(up, number)), _times(_of(up_index, number))),
            Axis(_divided(_of(down, number)), _divided(_of(down_index, number))),
        )
        for number in range(count)
    )


def _of(ratios: Any, number: int) -> Any:
    return ratios[number] if isinstance(ratios, (tuple, list)) else ratios


def _times(ratio: Any) -> Callable[[int], int]:
    return (lambda n: int(ratio(n))) if callable(ratio) else (lambda n: round(n * ratio))


def _divided(ratio: Any) -> Callable[[int], int]:
    return (lambda n: int(ratio(n))) if callable(ratio) else (lambda n: int(n / ratio))
