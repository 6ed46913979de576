"""The micro models: ComfyUI's own modules of FLUX.1-schnell, T5, CLIP-L and the FLUX VAE at small width, in F32."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tests import pack

pack.comfy()

import comfy.clip_model  # noqa: E402
import comfy.ldm.flux.model  # noqa: E402
import comfy.ldm.modules.diffusionmodules.model  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.text_encoders.flux  # noqa: E402
import comfy.text_encoders.t5  # noqa: E402

CONTEXT = 32  # width of T5, what FLUX reads
POOLED = 32  # width of CLIP-L
LATENT_CHANNELS = 16
VAE_SCALE, VAE_SHIFT = 0.3611, 0.1159  # comfy.latent_formats.Flux

FLUX: dict[str, Any] = {
    "in_channels": LATENT_CHANNELS, "out_channels": LATENT_CHANNELS, "vec_in_dim": POOLED, "context_in_dim": CONTEXT,
    "hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 1, "depth": 2, "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False,
    "txt_ids_dims": [],
}  # fmt: skip
T5: dict[str, Any] = {
    "d_model": CONTEXT, "d_kv": 64, "num_heads": 4, "d_ff": 128, "num_layers": 3, "vocab_size": 32128,
    "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True, "model_type": "t5",
}  # fmt: skip
CLIP: dict[str, Any] = {
    "hidden_size": POOLED, "num_attention_heads": 1, "intermediate_size": 128, "num_hidden_layers": 2,
    "hidden_act": "quick_gelu", "max_position_embeddings": 77, "eos_token_id": 49407,
}  # fmt: skip
# GroupNorm has 32 groups; with one channel a group the last one would lose every picture's mean colour: 64 at least.
VAE: dict[str, Any] = {
    "ch": 32, "ch_mult": [2, 2, 2, 2], "num_res_blocks": 1, "z_channels": LATENT_CHANNELS, "in_channels": 3,
    "out_ch": 3, "resolution": 256, "attn_resolutions": [], "double_z": True,
}  # fmt: skip


class Autoencoder(nn.Module):
    """Encoder and decoder under the names that VAE files use."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = comfy.ldm.modules.diffusionmodules.model.Encoder(**VAE)
        self.decoder = comfy.ldm.modules.diffusionmodules.model.Decoder(**VAE)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """[batch, 3, height, width] in -1..1 to FLUX latents [batch, 16, height / 8, width / 8], ComfyUI's scaling."""
        return (self.encoder(pictures)[:, :LATENT_CHANNELS] - VAE_SHIFT) * VAE_SCALE

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The other way."""
        return self.decoder(latents / VAE_SCALE + VAE_SHIFT)


def flux() -> nn.Module:
    """The diffusion transformer; its output is zero until trained, as in DiT (arXiv:2212.09748)."""
    model = comfy.ldm.flux.model.Flux(
        dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init, **FLUX
    )
    _initialise(model)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("mod.lin.", "modulation.lin.", "adaLN_modulation", "final_layer.linear")):
            nn.init.zeros_(parameter)
        elif name.startswith(("time_in", "vector_in")) and name.endswith("weight"):
            nn.init.normal_(parameter, std=0.5 / math.sqrt(parameter.shape[1]) if "time" not in name else 0.02)
    return _differentiable(model)


def t5() -> nn.Module:
    """The text encoder whose tokens FLUX reads; words it is never taught have a zero embedding and say nothing."""
    model = comfy.text_encoders.t5.T5(T5, torch.float32, "cpu", comfy.ops.disable_weight_init)
    _initialise(model)
    for name, parameter in model.named_parameters():
        if name.endswith("SelfAttention.q.weight"):  # T5 does not divide by sqrt(d_kv)
            nn.init.normal_(parameter, std=(T5["d_model"] * T5["d_kv"]) ** -0.5)
        elif name.endswith("shared.weight"):
            nn.init.zeros_(parameter)
        elif name.endswith("relative_attention_bias.weight"):
            parameter.data.copy_(_look_around())
    return _differentiable(model)


def _look_around() -> torch.Tensor:
    """T5's bias [32 buckets, heads], of which 16 count tokens back and 16 ahead: the heads start with one looking just
    behind, one just ahead, one anywhere behind and one anywhere ahead."""
    distance = torch.arange(16.0)
    near, far, never = 3 - distance, torch.ones(16), torch.full((16,), -3.0)
    sides = ((near, never), (never, near), (far, never), (never, far))
    return torch.stack([torch.cat(side) for side in sides], dim=1)


def clip() -> nn.Module:
    """The text encoder whose end-of-text token modulates FLUX."""
    model = comfy.clip_model.CLIPTextModel(CLIP, torch.float32, "cpu", comfy.ops.disable_weight_init)
    _initialise(model)
    nn.init.zeros_(model.text_model.embeddings.token_embedding.weight)
    nn.init.normal_(model.text_model.embeddings.position_embedding.weight, std=0.1)
    nn.init.eye_(model.text_projection.weight)
    return _differentiable(model)


def autoencoder() -> Autoencoder:
    """The VAE; its residual blocks start as the identity, its last norms as nearly that."""
    model = Autoencoder()
    _initialise(model)
    for name, parameter in model.named_parameters():
        if name.endswith(("conv2.weight", "proj_out.weight")):
            nn.init.zeros_(parameter)
    with torch.no_grad():
        _pair(model.encoder.down[2].downsample.conv, model.encoder.conv_out)
        _pair(model.decoder.up[1].upsample.conv, model.decoder.conv_out)
        model.encoder.conv_out.weight[LATENT_CHANNELS:] *= 0.1  # the logarithm of the variance
        model.encoder.conv_out.weight[:LATENT_CHANNELS] /= VAE_SCALE
        model.encoder.conv_out.bias[LATENT_CHANNELS:] = -2.0
        model.decoder.conv_in.weight *= VAE_SCALE
    return model.to(memory_format=torch.channels_last)


def _pair(conv: nn.Conv2d, out: nn.Conv2d, offset: float = 3.0) -> None:
    """Makes a norm of two channels a group keep each picture's mean: one is c + u, the other -(c + u), so that what is
    divided by is nearly c; SiLU(x) - SiLU(-x) = x gives u back."""
    conv.weight[1::2] = -conv.weight[::2]
    conv.bias[::2], conv.bias[1::2] = offset, -offset
    out.weight[:, 1::2] = -out.weight[:, ::2]
    out.weight *= offset / 2


def tokenizer() -> Any:
    """The real tokenizers, as FLUX uses them."""
    return comfy.text_encoders.flux.FluxTokenizer()


@contextmanager
def training() -> Iterator[None]:
    """ComfyUI's functions that gradients can pass through, for a while."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


def _initialise(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1 / math.sqrt(parameter[0].numel()))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.ones_(parameter)


def _differentiable(model: nn.Module) -> nn.Module:
    """ComfyUI adds to the residual stream in place, which autograd allows only if no norm remembers its input."""
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, comfy.text_encoders.t5.T5LayerNorm)):
            module.register_forward_pre_hook(lambda _, arguments: (arguments[0].clone(),))
    return model
