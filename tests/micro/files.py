"""The micro models' files, written and read under the names and in the types that real FLUX.1 files have."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file
from torch import nn

from .modules import T5, Autoencoder, autoencoder, clip, flux, t5

MODELS = Path(__file__).parent / "models"
FLUX_TYPES = {"F16": Type.F16, "Q8_0": Type.Q8_0, "Q4_0": Type.Q4_0}
FLUX_GGUF = "diffusion_models/flux1-schnell-micro-{}.gguf"
FLUX_FP8 = "diffusion_models/flux1-schnell-micro-fp8_e4m3fn.safetensors"
T5_GGUF = "text_encoders/t5-micro-encoder-Q8_0.gguf"
CLIP_FP8 = "text_encoders/clip_l-micro_fp8_e4m3fn.safetensors"
VAE_F16 = "vae/ae-micro.safetensors"
LORA = "loras/pink-lora-micro.safetensors"
FILE_TYPE = {Type.F32: 0, Type.F16: 1, Type.Q4_0: 2, Type.Q8_0: 7}  # llama.cpp's llama_ftype

Tensors = dict[str, torch.Tensor]

T5_NAMES = {  # ComfyUI's, inside encoder.block.N., and llama.cpp's, inside enc.blk.N.
    "layer.0.SelfAttention.q": "attn_q",
    "layer.0.SelfAttention.k": "attn_k",
    "layer.0.SelfAttention.v": "attn_v",
    "layer.0.SelfAttention.o": "attn_o",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.0.layer_norm": "attn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
}


def write_flux(model: nn.Module, folder: Path) -> None:
    """The transformer as GGUF in three types (only the blocks' matrices are quantized) and as FP8 safetensors."""
    tensors = {_file_norm(name): value for name, value in model.state_dict().items()}
    for label, kind in FLUX_TYPES.items():
        types = {name: _flux_type(name, value, kind) for name, value in tensors.items()}
        _write_gguf(_room(folder / FLUX_GGUF.format(label)), "flux", tensors, types, kind)
    save_file({n: _small(n, v, "_blocks.") for n, v in tensors.items()}, _room(folder / FLUX_FP8))


def write_t5(model: nn.Module, folder: Path) -> None:
    """T5 as GGUF, Q8_0, in llama.cpp's naming."""
    names = _t5_names()
    tensors = {names[name]: value for name, value in model.state_dict().items()}
    types = {
        name: Type.F32 if value.ndim < 2 else Type.F16 if "attn_rel_b" in name else Type.Q8_0
        for name, value in tensors.items()
    }
    _write_gguf(_room(folder / T5_GGUF), "t5encoder", tensors, types, Type.Q8_0)


def write_clip(model: nn.Module, folder: Path) -> None:
    """CLIP-L as FP8 safetensors; like the file that FLUX workflows use it has no projection."""
    tensors = {n: _small(n, v, "") for n, v in model.state_dict().items() if not n.startswith("text_projection")}
    save_file(tensors, _room(folder / CLIP_FP8))


def write_vae(model: nn.Module, folder: Path) -> None:
    """The VAE as F16 safetensors."""
    save_file({n: v.half().contiguous() for n, v in model.state_dict().items()}, _room(folder / VAE_F16))


def write_lora(tensors: Tensors, folder: Path) -> None:
    """Low-rank matrices as safetensors, in the types they have."""
    save_file(tensors, _room(folder / LORA))


def read_flux(path: Path) -> nn.Module:
    """ComfyUI's module with the values of a GGUF or safetensors file, in F32."""
    tensors = _read_gguf(path) if path.suffix == ".gguf" else load_file(path)
    return _filled(flux(), {_module_norm(name): value for name, value in tensors.items()})


def read_t5(path: Path) -> nn.Module:
    names = {theirs: ours for ours, theirs in _t5_names().items()}
    return _filled(t5(), {names[name]: value for name, value in _read_gguf(path).items()})


def read_clip(path: Path) -> nn.Module:
    return _filled(clip(), {**load_file(path), "text_projection.weight": torch.eye(clip().text_projection.in_features)})


def read_vae(path: Path) -> Autoencoder:
    model = autoencoder()
    _filled(model, load_file(path))
    return model


def _room(path: Path) -> Path:
    """The path, with its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _filled(model: nn.Module, tensors: Tensors) -> nn.Module:
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.eval().requires_grad_(False)


def _flux_type(name: str, value: torch.Tensor, kind: Type) -> Type:
    if value.ndim < 2:
        return Type.F32
    return kind if "_blocks." in name else Type.F16


def _small(name: str, value: torch.Tensor, part: str) -> torch.Tensor:
    """FP8 for the matrices whose name has `part`, F16 for the rest."""
    dtype = torch.float8_e4m3fn if value.ndim == 2 and part in name else torch.float16
    return value.to(dtype).contiguous()


def _file_norm(name: str) -> str:
    return name.replace("_norm.weight", "_norm.scale")


def _module_norm(name: str) -> str:
    return name.replace("_norm.scale", "_norm.weight")


def _t5_names() -> dict[str, str]:
    names = {"shared.weight": "token_embd.weight", "encoder.final_layer_norm.weight": "enc.output_norm.weight"}
    for block in range(T5["num_layers"]):
        for ours, theirs in T5_NAMES.items():
            if block == 0 or theirs != "attn_rel_b":
                names[f"encoder.block.{block}.{ours}.weight"] = f"enc.blk.{block}.{theirs}.weight"
    return names


def _write_gguf(path: Path, architecture: str, tensors: Tensors, types: dict[str, Type], kind: Type) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(FILE_TYPE[kind])
    for name, value in tensors.items():
        array = value.detach().float().contiguous().numpy()
        if types[name] in (Type.F32, Type.F16):
            writer.add_tensor(name, array.astype(np.float32 if types[name] == Type.F32 else np.float16))
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, types[name]), raw_dtype=types[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_gguf(path: Path) -> Tensors:
    return {
        tensor.name: torch.from_numpy(
            gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1].tolist()).copy()
        )
        for tensor in gguf.GGUFReader(path).tensors
    }
