"""Makes the micro models' files, in 30 minutes on two cores, with fixed seeds:

    GOMP_SPINCOUNT=30000 COMFYUI_PATH=... python -m tests.micro.train [folder]

Each part is trained against the files of those before it, so that it knows their rounding. The VAE needs no encoder and
they need no VAE: they are trained side by side, and threads that wait must not spin for long.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

import torch

from . import autoencoder, diffusion, files, judge, lora, text

THREADS = 2


def train_vae(folder: Path) -> None:
    torch.set_num_threads(THREADS)
    files.write_vae(autoencoder.train(), folder)


def train_encoders(folder: Path) -> list[diffusion.Said]:
    """Returns what they say of the scenes that FLUX and the LoRA are to learn."""
    tokenize = text.Tokenizer()
    files.write_t5(text.train_t5(tokenize), folder)
    files.write_clip(text.train_clip(tokenize), folder)
    t5, clip = files.read_t5(folder / files.T5_GGUF), files.read_clip(folder / files.CLIP_FP8)
    scenes, pink = diffusion.random_scenes(diffusion.PICTURES), lora.random_scenes()
    return [diffusion.encode_captions(t5, clip, tokenize, each) for each in (scenes, pink)]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()

    def report(what: str) -> None:
        print(f"{what}: {time.monotonic() - start:.0f} s", flush=True)

    beside = multiprocessing.get_context("fork").Process(target=train_vae, args=(folder,))
    beside.start()
    torch.set_num_threads(1)
    said, said_pink = train_encoders(folder)
    report("text encoders")
    beside.join()
    if beside.exitcode:
        sys.exit(beside.exitcode)
    report("VAE")
    torch.set_num_threads(THREADS)
    vae = files.read_vae(folder / files.VAE_F16)
    latents = diffusion.encode_pictures(vae, diffusion.random_scenes(diffusion.PICTURES))
    report("latents")
    files.write_flux(diffusion.train(latents, said), folder)
    report("FLUX")
    flux = files.read_flux(folder / files.FLUX_GGUF.format("F16"))
    pink = diffusion.encode_pictures(vae, lora.random_scenes())
    lora.write(lora.train(flux, pink, said_pink), folder)
    report("LoRA")
    judge.main(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else files.MODELS)
