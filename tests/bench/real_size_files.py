"""Model files of FLUX.1's real structure, names and sizes with random weights, for measurements.

They serve ComfyUI, this pack and stable-diffusion.cpp alike. `write` also makes them hollow: the
same headers over zeros, which take no room on a disk that knows holes.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind

from native.weights.llama_names import T5_BLOCK, T5_MODEL
from tests import pack

pack.comfy()

import comfy.clip_model  # noqa: E402
import comfy.ldm.flux.model  # noqa: E402
import comfy.ldm.models.autoencoder  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.text_encoders.t5  # noqa: E402

FLUX_FILE = Path(tempfile.gettempdir()) / "flux1-schnell-random-Q4_0.gguf"  # unless another is named
FLUX_SCHNELL = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072,
    "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56],
    "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip
T5_XXL = {
    "model_type": "t5", "vocab_size": 32128, "d_model": 4096, "num_layers": 24, "num_heads": 64, "d_kv": 64,
    "d_ff": 10240, "is_gated_act": True, "dense_act_fn": "gelu_pytorch_tanh",
}  # fmt: skip
CLIP_L = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "quick_gelu", "max_position_embeddings": 77, "eos_token_id": 49407,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
_DTYPES = {Kind.F16: np.float16, Kind.F32: np.float32}
_POOL = 1 << 21  # blocks or numbers that are repeated through a file
_SPREAD = {Kind.Q4_0: 4.6, Kind.Q4_K: 63.5, Kind.Q8_0: 74.0}  # deviation of the whole numbers that random bytes give

Shapes = Mapping[str, tuple[int, ...]]
Tensors = list[tuple[str, tuple[int, ...], Kind]]


@dataclass(frozen=True)
class ModelFile:
    """tensors: (name, shape in torch order, type). architecture: of a GGUF file, "" for safetensors, with metadata.

    contents: of tensors of bytes in a hollow safetensors file, such as a tokenizer.
    """

    architecture: str
    tensors: Tensors
    metadata: dict[str, str] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def _complete(path: Path) -> Iterator[Path]:
    """A path beside `path`; what is written there gets its name when it is whole."""
    partial = path.with_suffix(".partial")
    yield partial
    os.replace(partial, path)


def _blocks(kind: Kind, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Random blocks of a quantization whose weights have the deviation of a trained layer."""
    _, nbytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (_POOL, nbytes), np.uint8)
    scales = [0.7 / math.sqrt(columns) / _SPREAD[kind]]
    if kind == Kind.Q4_K:  # d and dmin, then twelve bytes of scales and minima: here from 0 to 15, of what may be 63
        scales.append(7.5 * scales[0])  # half of the largest number, so that weights lie around zero
        blocks[:, 4:12] &= 15
    found = np.array(scales, np.float16).view(np.uint8)
    blocks[:, : len(found)] = found
    return blocks.reshape(-1)


@cache
def _normal() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(_POOL, np.float32)


def _values(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Random weights [.., columns] that keep activations near one, in F32."""
    norm = name.endswith("gamma") or (len(shape) == 1 and name.endswith(("scale", "weight")))
    deviation = 0.02 if norm or len(shape) < 2 or "embed" in name else 0.7 / math.sqrt(math.prod(shape[1:]))
    drawn = np.resize(_normal()[rng.integers(_POOL // 2) :], shape)
    return drawn * np.float32(deviation) + np.float32(1.0 if norm else 0.0)


def write(path: Path, file: ModelFile, hollow: bool = False) -> None:
    """hollow: with zeros for weights."""
    with _complete(path) as partial:
        if file.architecture:
            _write_gguf(gguf.GGUFWriter(partial, file.architecture), file.tensors, partial if hollow else None)
        else:
            _write_safetensors(partial, file, hollow)


def _write_gguf(writer: Any, tensors: Tensors, hollow: Path | None) -> None:
    rng = np.random.default_rng(1)
    end = 0
    for name, shape, kind in tensors:
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        stored = (*shape[:-1], shape[-1] // block * nbytes)
        writer.add_tensor_info(name, stored, np.dtype(np.uint8), math.prod(stored), raw_dtype=kind)
        end = writer.ggml_pad(end, writer.data_alignment) + math.prod(stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    pools: dict[tuple[Kind, int], np.ndarray] = {}
    for name, shape, kind in tensors if hollow is None else ():
        if kind in (Kind.F32, Kind.F16):
            data = _values(name, shape, rng).astype(_DTYPES[kind]).view(np.uint8)
        else:
            block, nbytes = gguf.GGML_QUANT_SIZES[kind]
            pool = pools.setdefault((kind, shape[-1]), _blocks(kind, shape[-1], rng))
            data = np.resize(pool, math.prod(shape) // block * nbytes)
        writer.write_tensor_data(data)
    writer.close()
    if hollow is not None:
        start = writer.ggml_pad(hollow.stat().st_size, writer.data_alignment)
        os.truncate(hollow, start + writer.ggml_pad(end, writer.data_alignment))


def _write_safetensors(path: Path, file: ModelFile, hollow: bool) -> None:
    header: dict[str, Any] = {"__metadata__": file.metadata} if file.metadata else {}
    end = 0
    for name, content in file.contents.items():
        start, end = end, end + len(content)
        header[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [start, end]}
    for name, shape, kind in file.tensors:
        start, end = end, end + math.prod(shape) * np.dtype(_DTYPES[kind]).itemsize
        header[name] = {"dtype": kind.name, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # as the format's own writer aligns data
    with path.open("wb") as written:
        written.write(len(text).to_bytes(8, "little") + text + b"".join(file.contents.values()))
        rng = np.random.default_rng(1)
        for name, shape, kind in () if hollow else file.tensors:
            written.write(_values(name, shape, rng).astype(_DTYPES[kind]).data)
    os.truncate(path, 8 + len(text) + end)


def _shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def flux(kind: Kind = Kind.Q4_0, depth: int = 19, depth_single_blocks: int = 38) -> ModelFile:
    """FLUX.1-schnell, 12 B parameters: blocks quantized, the first and last layers F16, vectors F32."""
    sizes = {**FLUX_SCHNELL, "depth": depth, "depth_single_blocks": depth_single_blocks}
    module = comfy.ldm.flux.model.Flux(
        dtype=torch.float32, device="meta", operations=comfy.ops.disable_weight_init, **sizes
    )
    tensors = []
    for name, shape in _shapes(module).items():
        wide = kind if name.startswith(("double_blocks", "single_blocks")) else Kind.F16
        stored = name.removesuffix("weight") + "scale" if name.endswith("_norm.weight") else name
        tensors.append((stored, shape, Kind.F32 if len(shape) < 2 else wide))
    return ModelFile("flux", tensors)


def _t5() -> dict[str, tuple[int, ...]]:
    return _shapes(comfy.text_encoders.t5.T5(T5_XXL, torch.float32, "meta", comfy.ops.disable_weight_init))


def t5(shapes: Shapes, kind: Kind) -> ModelFile:
    """The encoder of T5 or UMT5 in llama.cpp's names: matrices quantized, vectors F32, tables of positions F16."""
    layers = {f"{ours}.weight": f"{theirs}.weight" for theirs, ours in T5_MODEL.items()}
    blocks = {f"{ours}.weight": f"{theirs}.weight" for theirs, ours in T5_BLOCK.items()}
    tensors = []
    for name, shape in shapes.items():
        renamed = layers.get(name)
        if renamed is None:
            _, _, number, layer = name.split(".", 3)
            renamed = f"enc.blk.{number}.{blocks[layer]}"
        tensors.append((renamed, shape, Kind.F32 if len(shape) < 2 else Kind.F16 if "rel_b" in renamed else kind))
    return ModelFile("t5encoder", tensors)


def t5_f16() -> ModelFile:
    """The encoder of T5-XXL in F16, for ComfyUI's own loader, which reads no GGUF."""
    return safetensors(_t5(), Kind.F16)


def clip_l() -> ModelFile:
    """CLIP-L in F16."""
    module = comfy.clip_model.CLIPTextModel(CLIP_L, torch.float32, "meta", comfy.ops.disable_weight_init)
    shapes = {name: shape for name, shape in _shapes(module).items() if not name.startswith("text_projection")}
    return safetensors(shapes, Kind.F16)


def vae() -> ModelFile:
    """FLUX.1's autoencoder in F32, which has no quant_conv."""
    with torch.device("meta"):
        module = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=VAE, embed_dim=VAE["z_channels"])
    return safetensors({name: shape for name, shape in _shapes(module).items() if "quant_conv" not in name}, Kind.F32)


def safetensors(shapes: Shapes, kind: Kind, contents: dict[str, bytes] | None = None) -> ModelFile:
    """A file of one type. contents: as ModelFile has them."""
    return ModelFile("", [(name, shape, kind) for name, shape in shapes.items()], contents=contents or {})


FILES: dict[str, Callable[[], ModelFile]] = {
    "flux1-schnell-random-Q4_0.gguf": flux,
    "flux1-schnell-random-Q4_K.gguf": lambda: flux(Kind.Q4_K),
    "flux1-schnell-random-Q8_0.gguf": lambda: flux(Kind.Q8_0),
    "flux1-two-blocks-random-Q4_0.gguf": lambda: flux(Kind.Q4_0, 1, 1),
    "t5-v1_1-xxl-encoder-random-Q8_0.gguf": lambda: t5(_t5(), Kind.Q8_0),
    "t5-v1_1-xxl-encoder-random-F16.safetensors": t5_f16,
    "clip_l-random-F16.safetensors": clip_l,
    "ae-random-F32.safetensors": vae,
}
