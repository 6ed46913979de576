"""Models of this pack as the nodes of ComfyUI use them while a prompt is planned."""

from __future__ import annotations

from functools import partial
from types import FunctionType, MethodType
from typing import Any

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..components.core_module import component_parts
from .other_nodes import is_ours, loads_models, with_planned_loading


class PlannedCLIP(comfy.sd.CLIP):
    """A CLIP whose loading makes no other model of ComfyUI go."""

    def load_model(self, *_args: Any, **_kwargs: Any) -> Any:
        """As CLIP; notes it in the plan."""
        self.patcher.load()
        return self.patcher

    def clone(self, *args: Any, **kwargs: Any) -> PlannedCLIP:
        """As CLIP."""
        return _planned_clip(super().clone(*args, **kwargs))


def planned_model(value: Any) -> Any:
    """A model as nodes can use it in a plan; other values as they are."""
    if isinstance(value, comfy.sd.CLIP) and is_ours(value):
        return _planned_clip(value)
    if isinstance(value, comfy.sd.VAE) and is_ours(value):
        for function in (decode, decode_tiled, encode, encode_tiled):
            setattr(value, function.__name__, partial(function, value))
    elif component_parts(value) and not isinstance(value, ModelPatcher):
        _plan_loading(value)
    return value


def _plan_loading(value: Any) -> None:
    """Make the methods of an object of core's that load its models do so in the plan alone."""
    for kind in type(value).__mro__:
        for name, function in vars(kind).items():
            if isinstance(function, FunctionType) and loads_models(function) and name not in vars(value):
                setattr(value, name, MethodType(with_planned_loading(function), value))


def _planned_clip(clip: comfy.sd.CLIP) -> PlannedCLIP:
    clip.__class__ = PlannedCLIP
    clip.patcher.load_device = torch.device("cpu")
    assert isinstance(clip, PlannedCLIP)
    return clip


def decode(vae: comfy.sd.VAE, samples_in: Tensor, vae_options: Any = None) -> Tensor:
    """As VAE.decode: latents to [batch, ..., channels], zeros without memory."""
    if vae.latent_dim == 2 and samples_in.ndim == 5:
        samples_in = samples_in[:, :, 0]
    vae.patcher.load()
    return vae.first_stage_model.decode(samples_in, **(vae_options or {})).movedim(1, -1)


def decode_tiled(vae: comfy.sd.VAE, samples: Tensor, **tiles: Any) -> Tensor:
    """As VAE.decode_tiled."""
    vae.patcher.load()
    return vae.first_stage_model.decode_tiled(samples, **_given(tiles)).movedim(1, -1)


def encode(vae: comfy.sd.VAE, pixel_samples: Tensor) -> Tensor:
    """As VAE.encode: [batch, ..., channels] to latents, zeros without memory."""
    vae.patcher.load()
    return _formatted(vae, vae.first_stage_model.encode(_channels_first(vae, pixel_samples)))


def encode_tiled(vae: comfy.sd.VAE, pixel_samples: Tensor, **tiles: Any) -> Tensor:
    """As VAE.encode_tiled."""
    vae.patcher.load()
    return _formatted(vae, vae.first_stage_model.encode_tiled(_channels_first(vae, pixel_samples), **_given(tiles)))


def _formatted(vae: comfy.sd.VAE, latents: Tensor) -> Tensor:
    """Latents in the shape that SeedVR2's nodes take, or as they are; older ComfyUIs have no such attribute."""
    formatted = getattr(vae, "format_encoded", None)
    return latents if formatted is None else formatted(latents)


def _channels_first(vae: comfy.sd.VAE, pixels: Tensor) -> Tensor:
    pixels = vae.vae_encode_crop_pixels(pixels).movedim(-1, 1)
    if vae.latent_dim == 3 and pixels.ndim < 5:
        return pixels.unsqueeze(2) if getattr(vae, "not_video", False) else pixels.movedim(1, 0).unsqueeze(0)
    return pixels


def _given(tiles: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tiles.items() if value is not None}
