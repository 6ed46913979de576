"""Makes the micro models' files: `COMFYUI_PATH=... python -m tests.micro.train [folder]`, 30 minutes on two cores.

Each part is trained against the files of those before it, so that it knows their rounding. Seeds are fixed.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from . import autoencoder, diffusion, files, lora, text
from .captions import plain_caption
from .scenes import held_out_scenes

THREADS = 2
SINGLES, PAIRS = 20, 20
PROMPTS = "held_out_prompts.json"


def write_prompts(folder: Path) -> None:
    """Scenes that training never sees and their captions, for tests."""
    rows = [{"prompt": plain_caption(scene), **asdict(scene)} for scene in held_out_scenes(SINGLES, PAIRS)]
    text = ",\n".join(json.dumps(row) for row in rows)
    (folder / PROMPTS).write_text(f"[\n{text}\n]\n")


def main(folder: Path) -> None:
    torch.set_num_threads(THREADS)
    folder.mkdir(parents=True, exist_ok=True)
    start, cpu = time.monotonic(), time.process_time()

    def report(what: str) -> None:
        print(f"{what}: {time.monotonic() - start:.0f} s, {time.process_time() - cpu:.0f} CPU seconds", flush=True)

    write_prompts(folder)
    tokenize = text.Tokenizer()
    files.write_vae(autoencoder.train(), folder)
    report("VAE")
    t5 = text.train_t5(tokenize)
    files.write_clip(text.train_clip(tokenize), folder)
    report("text encoders")
    vae, clip = files.read_vae(folder / files.VAE_F16), files.read_clip(folder / files.CLIP_FP8)
    data = diffusion.examples(vae, clip, tokenize)
    report("latents")
    files.write_flux(diffusion.train(data, t5), folder)
    files.write_t5(t5, folder)
    report("FLUX and T5")
    flux, t5 = files.read_flux(folder / files.FLUX_GGUF.format("F16")), files.read_t5(folder / files.T5_GGUF)
    lora.write(lora.train(flux, lora.examples(vae, clip, tokenize), t5), folder)
    report("LoRA")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else files.MODELS)
