"""How many held-out prompts the micro models draw right, in torch:

COMFYUI_PATH=... python -m tests.micro.judge [folder]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from . import files, pipeline
from .captions import plain_caption
from .checker import faults
from .scenes import held_out_scenes

TOGETHER = 8  # pictures


def main(folder: Path) -> None:
    """Prints what is wrong, and how many of 40 are right, for each quantization of FLUX."""
    scenes = held_out_scenes(singles=20, pairs=20)
    vae, encoders = files.read_vae(folder / files.VAE_F16), pipeline.read_encoders(folder)
    context, pooled = pipeline.encode(*encoders, [plain_caption(scene) for scene in scenes])
    for kind in files.FLUX_TYPES:
        flux = files.read_flux(folder / files.FLUX_GGUF.format(kind))
        right = 0
        for some in torch.arange(len(scenes)).split(TOGETHER):
            latents = pipeline.sample(flux, context[some], pooled[some], some.tolist())
            for index, picture in zip(some.tolist(), pipeline.decode(vae, latents), strict=True):
                wrong = faults(picture, scenes[index])
                right += not wrong
                if wrong:
                    print(f"{kind}: {plain_caption(scenes[index])}: {'; '.join(wrong)}")
        print(f"{kind}: {right} of {len(scenes)} right", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else files.MODELS)
