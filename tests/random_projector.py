"""Eyes for the random language models: a vision encoder and projector of LLaVA's structure with random weights."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from .random_llm import TINY

NAME = "mmproj-tiny-random.gguf"
SIDE, PATCH = 28, 14  # pixels
_WIDTH, _HIDDEN, _HEADS, _BLOCKS = 32, 64, 2, 2


def write(path: Path, width: int = TINY.width, seed: int = 0) -> Path:
    """width: of the language model that it sees for."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", True)
    for key, value in (
        ("image_size", SIDE), ("patch_size", PATCH), ("embedding_length", _WIDTH), ("feed_forward_length", _HIDDEN),
        ("projection_dim", width), ("block_count", _BLOCKS), ("attention.head_count", _HEADS),
    ):  # fmt: skip
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for key in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{key}", [0.5, 0.5, 0.5])
    for name, shape in _shapes(width).items():
        norm = ".ln" in name or "pre_ln" in name
        values = rng.standard_normal(shape) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.1)
        writer.add_tensor(name, (values + (norm and name.endswith("weight"))).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a CLIP vision tower and of two layers that lead into a language model, in torch order."""
    shapes: dict[str, tuple[int, ...]] = {
        "v.class_embd": (_WIDTH,), "v.patch_embd.weight": (_WIDTH, 3, PATCH, PATCH),
        "v.position_embd.weight": ((SIDE // PATCH) ** 2 + 1, _WIDTH),
        "v.pre_ln.weight": (_WIDTH,), "v.pre_ln.bias": (_WIDTH,),
        "mm.0.weight": (width, _WIDTH), "mm.0.bias": (width,), "mm.2.weight": (width, width), "mm.2.bias": (width,),
    }  # fmt: skip
    layers = {
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_out"), (_WIDTH, _WIDTH)),
        "ffn_up": (_HIDDEN, _WIDTH), "ffn_down": (_WIDTH, _HIDDEN), "ln1": (_WIDTH,), "ln2": (_WIDTH,),
    }  # fmt: skip
    for block in range(_BLOCKS):
        for name, shape in layers.items():
            shapes[f"v.blk.{block}.{name}.weight"] = shape
            shapes[f"v.blk.{block}.{name}.bias"] = shape[:1]
    return shapes
