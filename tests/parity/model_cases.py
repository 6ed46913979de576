"""Whole models at small width: how to build, call and feed each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests import pack

pack.comfy()

import comfy.clip_model  # noqa: E402
import comfy.ldm.flux.model  # noqa: E402
import comfy.ldm.modules.diffusionmodules.model as autoencoder  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.text_encoders.t5  # noqa: E402

Inputs = dict[str, Tensor]
_COMFY = Path(comfy.ops.__file__).parent


@dataclass(frozen=True)
class ModelCase:
    """build(device) makes the module; inputs(batch) what `function` is called with. gelu: ggml's table takes part."""

    name: str
    build: Callable[[str], torch.nn.Module]
    function: Callable[[Any, Inputs], Any]
    inputs: Callable[[int], Inputs]
    gelu: bool = False


def sdpa(
    _function: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None,
    skip_reshape: bool = False, skip_output_reshape: bool = False, **_: Any,
) -> Tensor:  # fmt: skip
    """Attention as torch's one operation, as this pack has it in place of ComfyUI's own."""
    if not skip_reshape:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def _flux(device: str, guidance: bool = False) -> torch.nn.Module:
    return comfy.ldm.flux.model.Flux(
        in_channels=16, out_channels=16, vec_in_dim=32, context_in_dim=64, hidden_size=256, mlp_ratio=4.0, num_heads=2,
        depth=2, depth_single_blocks=2, axes_dim=[16, 56, 56], theta=10000, patch_size=2, qkv_bias=True,
        guidance_embed=guidance, txt_ids_dims=[], dtype=torch.float32, device=device,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip


def call_flux(m: Any, t: Inputs) -> Tensor:
    options = {"optimized_attention_override": sdpa}
    control = {"input": [t["control"]], "output": [None, t["control"]]} if "control" in t else None
    return m(
        t["x"], t["timestep"], t["context"], t["y"], guidance=t.get("guidance"), control=control,
        transformer_options=options, attention_mask=t.get("mask"),
    )  # fmt: skip


def _flux_inputs(batch: int, height: int = 16, width: int = 24, tokens: int = 20, **more: Any) -> Inputs:
    inputs = {
        "x": torch.randn(batch, 16, height, width), "timestep": torch.rand(batch),
        "context": torch.randn(batch, tokens, 64), "y": torch.randn(batch, 32),
    }  # fmt: skip
    return inputs | {name: make(batch) for name, make in more.items()}


def _flux_mask(batch: int, tokens: int = 20 + 96) -> Tensor:
    mask = torch.ones(batch, 1, tokens, tokens, dtype=torch.bool)
    mask[..., 15:20] = False
    return mask


def _t5(device: str) -> torch.nn.Module:
    config = json.loads((_COMFY / "text_encoders/t5_config_xxl.json").read_text())
    config |= {"d_ff": 512, "d_kv": 32, "d_model": 256, "num_heads": 8, "num_layers": 3, "vocab_size": 1000}
    return comfy.text_encoders.t5.T5(config, torch.float32, device, comfy.ops.disable_weight_init)


def _clip(device: str) -> torch.nn.Module:
    config = json.loads((_COMFY / "sd1_clip_config.json").read_text())
    config |= {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 3}
    return comfy.clip_model.CLIPTextModel(config, torch.float32, device, comfy.ops.disable_weight_init)


def _coder(device: str, kind: type[torch.nn.Module]) -> torch.nn.Module:
    with torch.device(device):
        module = kind(
            ch=32, out_ch=3, ch_mult=[1, 2, 4], num_res_blocks=1, attn_resolutions=[], in_channels=3, resolution=256,
            z_channels=16, double_z=True,
        )  # fmt: skip
    for part in module.modules():
        if isinstance(part, autoencoder.AttnBlock):  # the other one cuts its work by the memory that is free now
            part.optimized_attention = autoencoder.pytorch_attention
    return module


def _padded(batch: int, tokens: int, kept: int) -> Tensor:
    mask = torch.ones(batch, tokens, dtype=torch.long)
    mask[:, kept:] = 0
    return mask


MODELS = (
    ModelCase("FLUX schnell", _flux, call_flux, _flux_inputs, gelu=True),
    ModelCase("FLUX odd size", _flux, call_flux, lambda n: _flux_inputs(n, 15, 23, 33), gelu=True),
    ModelCase("FLUX mask", _flux, call_flux, lambda n: _flux_inputs(n, mask=_flux_mask), gelu=True),
    ModelCase("FLUX control", _flux, call_flux, lambda n: _flux_inputs(
        n, control=lambda batch: torch.randn(batch, 96, 256)), gelu=True),
    ModelCase("FLUX dev", lambda device: _flux(device, True), call_flux,
              lambda n: _flux_inputs(n, guidance=torch.rand), gelu=True),
    ModelCase("T5", _t5, lambda m, t: m(None, None, embeds=t["embeds"])[0],
              lambda n: {"embeds": torch.randn(n, 40, 256)}, gelu=True),
    ModelCase("T5 ids and mask", _t5, lambda m, t: m(t["ids"], t["mask"], intermediate_output=1),
              lambda n: {"ids": torch.randint(0, 1000, (n, 40)), "mask": _padded(n, 40, 30)}, gelu=True),
    ModelCase("CLIP-L", _clip, lambda m, t: m(t["ids"], None, intermediate_output=-2),
              lambda n: {"ids": torch.randint(0, 49000, (n, 77))}),
    ModelCase("VAE decoder", lambda device: _coder(device, autoencoder.Decoder), lambda m, t: m(t["z"]),
              lambda n: {"z": torch.randn(n, 16, 6, 8)}),
    ModelCase("VAE encoder", lambda device: _coder(device, autoencoder.Encoder), lambda m, t: m(t["z"]),
              lambda n: {"z": torch.randn(n, 3, 32, 24)}),
)  # fmt: skip


# Ends of names: of tables of positions that are no Embedding, and of vectors that scale.
_TABLES = (
    "pos_embed", "position_embedding", "positional_embedding", "pos_embedding", "embed_positions", "shared.weight",
)  # fmt: skip
# Buffers that have no values until a file is loaded: SD3's, SeedVR2's, MiniMax H3's.
_UNSET = ("pos_embed", "_conditioning", "mask_token")
_SCALES = ("weight", "gamma", "scale", "alpha", "beta", "original0", "_g")


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that keep activations near one.

    Matrices and kernels by their fan-in, tables of embeddings and positions as they come, norms near one. Of the
    buffers only what files hold, such as statistics of batch norms: the others the module computes for itself.
    """
    generator, stored = torch.Generator().manual_seed(3), module.state_dict()
    tables = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, torch.nn.Embedding)}
    for name, p in module.named_parameters():
        noise = _noise(p, generator)
        if p.numel() <= max(p.shape, default=1):  # a vector, of whatever shape
            noise = 0.1 * noise + (1.0 if name.endswith(_SCALES) else 0.0)
        elif name not in tables and not name.endswith(_TABLES):
            noise *= p[0].numel() ** -0.5
        p.data = noise
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(1 + 0.1 * torch.rand(buffer.shape, generator=generator))
        elif name.endswith(_UNSET):
            buffer.copy_(torch.randn(buffer.shape, generator=generator))
        elif name.endswith("inv_freq") and name in stored:
            buffer.copy_(10000.0 ** -torch.linspace(0, 1, len(buffer) + 1)[:-1])
    return module.eval().requires_grad_(False)


def _noise(p: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers of that shape; a large table repeats some of its own type, as that is quicker and smaller."""
    if p.numel() <= _LARGE:
        return torch.randn(p.shape, generator=generator)
    some = torch.randn(_LARGE // 8 + 7, generator=generator).to(p.dtype)
    return some.repeat(-(-p.numel() // some.numel()))[: p.numel()].view(p.shape)


_LARGE = 1 << 24
