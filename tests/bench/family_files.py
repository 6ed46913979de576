"""Model files with random weights for `bench`: FLUX.1's, and other families' as tests/templates has their structure.

COMFYUI_PATH=... python -m tests.bench.family_files NAME FOLDER
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from gguf import GGMLQuantizationType as Kind

from native.weights.llama_names import BLOCK, MODEL
from tests.templates.autoencoders import shapes as vae_shapes
from tests.templates.diffusion import DIFFUSION
from tests.templates.encoders import ENCODERS
from tests.templates.files import row_of

from . import real_size_files
from .real_size_files import ModelFile, Shapes, safetensors, t5

_QUANTIZED = 1 << 20  # the fewest numbers of a matrix that is


def checkpoint(name: str) -> ModelFile:
    """A checkpoint in F16, of the row of tests/templates/files.py that its name has."""
    parts = row_of("checkpoints", name).parts
    return safetensors({part.prefix + key: shape for part in parts for key, shape in part.shapes().items()}, Kind.F16)


def diffusion(name: str, architecture: str, kind: Kind) -> ModelFile:
    """A diffusion model in GGUF; its matrices are quantized."""
    return ModelFile(architecture, list(_stored(DIFFUSION[name].shapes(), kind)))


def language_model(name: str, architecture: str, kind: Kind) -> ModelFile:
    """A language model in llama.cpp's names; a vision tower of transformers' file has a file of its own there."""
    layers = {f"model.{ours}": theirs for theirs, ours in MODEL.items()}
    blocks = {ours: theirs for theirs, ours in reversed(BLOCK.items())}
    renamed = {}
    for key, shape in ENCODERS[name].shapes().items():
        stem, _, end = key.rpartition(".")
        if stem.startswith("model.layers."):
            _, _, number, layer = stem.split(".", 3)
            renamed[f"blk.{number}.{blocks[layer]}.{end}"] = shape
        elif stem in layers:
            renamed[f"{layers[stem]}.{end}"] = shape
    return ModelFile(architecture, list(_stored(renamed, kind)))


def _stored(shapes: Shapes, kind: Kind) -> Iterator[tuple[str, tuple[int, ...], Kind]]:
    """Large matrices quantized, others F16, vectors F32."""
    for name, shape in shapes.items():
        wide = len(shape) == 2 and math.prod(shape) >= _QUANTIZED and shape[1] % 256 == 0
        yield name, shape, Kind.F32 if len(shape) < 2 else kind if wide else Kind.F16


FILES: dict[str, Callable[[], ModelFile]] = {
    **real_size_files.FILES,
    "v1-5-random-F16.safetensors": lambda: checkpoint("v1-5"),
    "sd_xl_base-random-F16.safetensors": lambda: checkpoint("sd_xl_base"),
    "z_image-random-Q8_0.gguf": lambda: diffusion("Z-Image", "lumina2", Kind.Q8_0),
    "qwen3_4b-random-Q8_0.gguf": lambda: language_model("Qwen3 4B", "qwen3", Kind.Q8_0),
    "qwen_image-random-Q4_0.gguf": lambda: diffusion("Qwen-Image", "qwen_image", Kind.Q4_0),
    "qwen2.5_vl_7b-random-Q4_0.gguf": lambda: language_model("Qwen2.5-VL 7B", "qwen2vl", Kind.Q4_0),
    "qwen_image_vae-random-F16.safetensors": lambda: safetensors(vae_shapes("Qwen-Image"), Kind.F16),
    "wan2.2_ti2v_5b-random-F16.safetensors": lambda: safetensors(DIFFUSION["Wan 2.2 5B"].shapes(), Kind.F16),
    "umt5_xxl-random-Q8_0.gguf": lambda: t5(ENCODERS["UMT5-XXL"].shapes(), Kind.Q8_0),
    "wan2.2_vae-random-F16.safetensors": lambda: safetensors(vae_shapes("Wan 2.2"), Kind.F16),
}  # fmt: skip


if __name__ == "__main__":
    real_size_files.write(Path(sys.argv[2]) / sys.argv[1], FILES[sys.argv[1]]())
