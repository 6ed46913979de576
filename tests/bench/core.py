"""Measures ComfyUI's own loaders and torch on the CPU.

COMFYUI_PATH=... python -m tests.bench.core encode|decode|draw [options of tests.bench.task]
"""

from __future__ import annotations

import argparse
import time

import torch

from tests import pack

from . import pictures
from .task import PROMPT, Report, perform

pack.comfy()

import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402


def main() -> None:
    """Measures one task."""
    perform({"encode": encode, "decode": decode, "draw": draw}, __doc__)


def encode(options: argparse.Namespace) -> Report:
    """T5 of 256 tokens and CLIP-L of 77, as DualCLIPLoader loads them; the second prompt counts."""
    clip = comfy.sd.load_clip([str(options.t5), str(options.clip)], clip_type=comfy.sd.CLIPType.FLUX)
    seconds = []
    for prompt in ("a first prompt", PROMPT):
        start = time.perf_counter()
        clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        seconds.append(time.perf_counter() - start)
    dtype = str(clip.cond_stage_model.dtypes)
    return Report(seconds[1], torch.get_num_threads(), f"weights {dtype}; the first prompt: {seconds[0]:.1f} s")


def decode(options: argparse.Namespace) -> Report:
    """A picture out of random latents, as VAELoader or CheckpointLoaderSimple loads the VAE; the second counts."""
    if options.checkpoint:
        vae = comfy.sd.load_checkpoint_guess_config(str(options.checkpoint), output_clip=False, output_model=False)[2]
    else:
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(options.vae)))
    first, second = pictures.decode(vae, options)
    return Report(second, torch.get_num_threads(), f"in {vae.vae_dtype}; the first: {first:.1f} s")


def draw(options: argparse.Namespace) -> Report:
    """A prompt and two steps, as CheckpointLoaderSimple loads their models; the second of each counts."""
    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(options.checkpoint), output_vae=False)
    encode, step = pictures.draw(model, clip, options)
    notes = f"computed in {model.model.manual_cast_dtype or model.model.get_dtype()}"
    return Report(step, torch.get_num_threads(), notes, encode=encode)


if __name__ == "__main__":
    main()
