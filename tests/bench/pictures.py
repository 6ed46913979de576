"""Parts of a picture or a video by ComfyUI's own objects, timed: the prompt, a step, decoding."""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from typing import Any

import torch

from tests import pack

from .task import PROMPT

pack.comfy()

import comfy.sample  # noqa: E402


def draw(model: Any, clip: Any, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds to encode a prompt and for a step; the first of each, with loading and tracing, does not count."""
    for _ in range(2):  # a prompt of another length would be traced anew
        start = time.perf_counter()
        conditioning = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
        encode = time.perf_counter() - start
    latent = torch.zeros(_latent_shape(model, options))
    ends: list[float] = []
    sampled = comfy.sample.sample(
        model, comfy.sample.prepare_noise(latent, 1), 2, 1.0, "euler", "simple", conditioning, conditioning, latent,
        disable_pbar=True, seed=1, callback=lambda *_: ends.append(time.perf_counter()),
    )  # fmt: skip
    assert sampled.isfinite().all()
    (step,) = (after - before for before, after in pairwise(ends))
    return encode, step


def decode(vae: Any, options: argparse.Namespace) -> list[float]:
    """Seconds to decode random latents, twice; the first time with loading and tracing."""
    width, height = _sides(options, vae.spacial_compression_decode())
    frames = _frames(options, vae.temporal_compression_decode() or 1) if vae.latent_dim == 3 else ()
    seconds = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        latent = torch.randn(1, vae.latent_channels, *frames, height, width, generator=generator)
        start = time.perf_counter()
        pixels = vae.decode(latent)
        seconds.append(time.perf_counter() - start)
        assert pixels.shape[-3:] == (options.height or options.size, options.size, 3)
        assert pixels.isfinite().all()
    return seconds


def _latent_shape(model: Any, options: argparse.Namespace) -> tuple[int, ...]:
    """[1, channels, (frames,) height, width] of an empty latent, as the model's format of latents says."""
    layout = model.get_model_object("latent_format")
    width, height = _sides(options, layout.spacial_downscale_ratio)
    frames = _frames(options, layout.temporal_downscale_ratio) if layout.latent_dimensions == 3 else ()
    return 1, layout.latent_channels, *frames, height, width


def _sides(options: argparse.Namespace, ratio: int) -> tuple[int, int]:
    return options.size // ratio, (options.height or options.size) // ratio


def _frames(options: argparse.Namespace, ratio: int) -> tuple[int]:
    return ((max(options.frames, 1) - 1) // ratio + 1,)
