"""Measures ComfyUI's own loaders and torch on the CPU.

COMFYUI_PATH=... python -m tests.bench.core encode|decode [options of tests.bench.task]
"""

from __future__ import annotations

import argparse
import time

import torch

from tests import pack

from .task import PROMPT, Report, perform

pack.comfy()

import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402


def main() -> None:
    """Measures one task."""
    perform({"encode": encode, "decode": decode}, __doc__)


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
    """A picture out of random latents, as VAELoader loads it; the second counts."""
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(options.vae)))
    seconds = []
    for seed in range(2):
        latent = torch.randn(1, 16, options.size // 8, options.size // 8, generator=torch.Generator().manual_seed(seed))
        start = time.perf_counter()
        vae.decode(latent)
        seconds.append(time.perf_counter() - start)
    return Report(seconds[1], torch.get_num_threads(), f"in {vae.vae_dtype}; the first: {seconds[0]:.1f} s")


if __name__ == "__main__":
    main()
