"""FLUX.1, T5, CLIP-L and VAE of the real structure, small and random, as core's modules and as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

from . import pack

pack.comfy()

import comfy.ldm.flux.model  # noqa: E402
import comfy.ldm.models.autoencoder  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.text_encoders.t5  # noqa: E402
from comfy.clip_model import CLIPTextModel  # noqa: E402

T5_WIDTH, CLIP_WIDTH = 96, 64
FLUX: dict[str, Any] = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": CLIP_WIDTH, "context_in_dim": T5_WIDTH,
    "hidden_size": 256, "mlp_ratio": 4.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False,
    "txt_ids_dims": [],
}  # fmt: skip
T5: dict[str, Any] = {
    "model_type": "t5", "vocab_size": 32128, "d_model": T5_WIDTH, "num_layers": 3, "num_heads": 4, "d_kv": 32,
    "d_ff": 160, "is_gated_act": True, "dense_act_fn": "gelu_pytorch_tanh",
}  # fmt: skip
CLIP: dict[str, Any] = {
    "hidden_size": CLIP_WIDTH, "num_hidden_layers": 3, "num_attention_heads": 1, "intermediate_size": 128,
    "hidden_act": "quick_gelu", "max_position_embeddings": 77, "eos_token_id": 49407,
}  # fmt: skip
VAE: dict[str, Any] = {
    "double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 2, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip

Tensors = dict[str, torch.Tensor]


def randomize(module: torch.nn.Module, seed: int) -> Tensors:
    """Fill a module with weights that keep activations near one, all of them exact in F16; returns its state dict."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            noise = 0.1 * noise + (1.0 if name.endswith("weight") else 0.0)
        elif "embed" not in name and "shared" not in name:
            noise *= parameter[0].numel() ** -0.5
        parameter.data = noise.half().float()
    return module.eval().requires_grad_(False).state_dict()


def flux(seed: int = 0, **changes: Any) -> Tensors:
    """A FLUX.1 state dict in core's names."""
    settings = {**FLUX, **changes}
    operations = comfy.ops.disable_weight_init
    return randomize(
        comfy.ldm.flux.model.Flux(dtype=torch.float32, device="cpu", operations=operations, **settings), seed
    )


def t5(seed: int = 1, **changes: Any) -> Tensors:
    """A T5 state dict in core's names."""
    operations = comfy.ops.disable_weight_init
    return randomize(comfy.text_encoders.t5.T5(T5 | changes, torch.float32, "cpu", operations), seed)


def clip_l(seed: int = 2, **changes: Any) -> Tensors:
    """A CLIP-L state dict in core's names."""
    return randomize(CLIPTextModel(CLIP | changes, torch.float32, "cpu", comfy.ops.disable_weight_init), seed)


def vae(seed: int = 3) -> Tensors:
    """The state dict of a FLUX.1 VAE, which has no quant_conv."""
    parts = {"ddconfig": VAE, "embed_dim": VAE["z_channels"]}
    tensors = randomize(comfy.ldm.models.autoencoder.AutoencoderKL(**parts), seed)
    return {name: tensor for name, tensor in tensors.items() if "quant_conv" not in name}


def write_gguf(path: Path, architecture: str, tensors: Tensors, matrices: Any = np.float16) -> Path:
    """Vectors in F32; FLUX.1's norms under the name that files give them."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, tensor in tensors.items():
        if architecture == "flux" and name.endswith("_norm.weight"):
            name = name.removesuffix("weight") + "scale"
        writer.add_tensor(name, tensor.numpy().astype(np.float32 if tensor.ndim == 1 else matrices))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_safetensors(path: Path, tensors: Tensors, dtype: torch.dtype = torch.float16) -> Path:
    """All tensors in one type."""
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, path)
    return path
