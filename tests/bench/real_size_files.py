"""Model files of real structure, names and size with random weights, for measurements."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind

from tests import pack

pack.comfy()

import comfy.ldm.flux.model  # noqa: E402
import comfy.ops  # noqa: E402

FLUX_FILE = Path(tempfile.gettempdir()) / "flux1-schnell-random-Q4_0.gguf"  # unless another is named
FLUX_SCHNELL = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072,
    "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56],
    "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip
_POOL = 1 << 21  # blocks that are repeated through a file
_SPREAD = {Kind.Q4_0: 4.6, Kind.Q8_0: 74.0}  # standard deviation of the whole numbers that random bytes give


def _blocks(kind: Kind, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Random blocks of a quantization whose weights have the deviation of a trained layer."""
    _, nbytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (_POOL, nbytes), np.uint8)
    scale = np.float16(0.7 / math.sqrt(columns) / _SPREAD[kind])
    blocks[:, :2] = np.frombuffer(scale.tobytes(), np.uint8)
    return blocks.reshape(-1)


def _write(path: Path, architecture: str, tensors: list[tuple[str, tuple[int, ...], Kind]]) -> Path:
    """A GGUF file of (name, shape in torch order, type); written beside its name and put there when complete."""
    rng = np.random.default_rng(1)
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, architecture)
    for name, shape, kind in tensors:
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        stored = (*shape[:-1], shape[-1] // block * nbytes)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), math.prod(stored), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    pools: dict[tuple[Kind, int], np.ndarray] = {}
    for name, shape, kind in tensors:
        if kind in (Kind.F32, Kind.F16):
            deviation = 0.02 if len(shape) < 2 else 0.7 / math.sqrt(shape[-1])
            values = rng.standard_normal(shape, np.float32) * deviation + (1.0 if name.endswith("scale") else 0.0)
            data = values.astype(np.float32 if kind == Kind.F32 else np.float16).view(np.uint8)
        else:
            block, nbytes = gguf.GGML_QUANT_SIZES[kind]
            pool = pools.setdefault((kind, shape[-1]), _blocks(kind, shape[-1], rng))
            data = np.resize(pool, math.prod(shape) // block * nbytes)
        writer.write_tensor_data(data.reshape(*data.shape))
    writer.close()
    os.replace(partial, path)
    return path


def flux(path: Path, kind: Kind = Kind.Q4_0) -> Path:
    """FLUX.1-schnell, 12 B parameters: blocks quantized, the first and last layers F16, vectors F32."""
    module = comfy.ldm.flux.model.Flux(
        dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init, **FLUX_SCHNELL
    )
    tensors = []
    for name, p in module.named_parameters():
        shape = tuple(p.shape)
        wide = kind if name.startswith(("double_blocks", "single_blocks")) else Kind.F16
        stored = name.removesuffix("weight") + "scale" if name.endswith("_norm.weight") else name
        tensors.append((stored, shape, Kind.F32 if len(shape) < 2 else wide))
    return _write(path, "flux", tensors)
