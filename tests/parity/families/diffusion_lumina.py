"""Lumina 2, Z-Image and their pixel-space kin; transformers that work on pixels."""

from __future__ import annotations

from typing import Any

import comfy.ldm.hidream_o1.model
import comfy.ldm.lumina.model
import comfy.ldm.pixeldit.model
import comfy.ldm.pixeldit.pid
import torch
from comfy.ldm.hidream_o1.conditioning import build_extra_conds

from ..model_cases import Inputs
from .case import FACTORY, GELU, FamilyCase


def _next_dit(kind: type[torch.nn.Module] = comfy.ldm.lumina.model.NextDiT, **config: Any) -> torch.nn.Module:
    config = {
        "patch_size": 2, "in_channels": 16, "dim": 192, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 2,
        "n_kv_heads": 1, "multiple_of": 32, "qk_norm": True, "cap_feat_dim": 48, "axes_dims": [32, 32, 32],
        "axes_lens": [300, 512, 512], "rope_theta": 10000.0, "ffn_dim_multiplier": 2.0,
    } | config  # fmt: skip
    return kind(**config, **FACTORY)


def _z_image(kind: type[torch.nn.Module] = comfy.ldm.lumina.model.NextDiT, **config: Any) -> torch.nn.Module:
    z = {
        "dim": 256, "n_kv_heads": 2, "axes_dims": [32, 48, 48], "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3,
        "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
    }  # fmt: skip
    return _next_dit(kind, **(z | config))


def _z_pixels() -> torch.nn.Module:
    return _z_image(
        comfy.ldm.lumina.model.NextDiTPixelSpace, patch_size=8, in_channels=3, decoder_hidden_size=48,
        decoder_num_res_blocks=2, decoder_max_freqs=4, decoder_in_channels=192, use_x0=True,
    )  # fmt: skip


def _call(m: Any, t: Inputs) -> Any:
    named = {name: x for name, x in t.items() if name in ("attention_mask", "clip_text_pooled")}
    lists = {name: [t[name]] for name in ("ref_latents", "ref_contexts", "siglip_feats") if name in t}
    return m(
        t["x"], t["timestep"], t["context"], num_tokens=t["context"].shape[1], control=None, transformer_options={},
        **named, **lists,
    )  # fmt: skip


def _picture(batch: int, size: int, channels: int = 16, scale: int = 1, **more: tuple[int, ...]) -> Inputs:
    """scale: of height and width; more: shapes without the batch."""
    inputs = {
        "x": torch.randn(batch, channels, (8 + 4 * size) * scale, 12 * scale), "timestep": torch.rand(batch),
        "context": torch.randn(batch, 9 + 8 * size, 48),
    }  # fmt: skip
    return inputs | {name: torch.randn(batch, *shape) for name, shape in more.items()}


def _masked(batch: int, size: int) -> Inputs:
    mask = torch.ones(batch, 9 + 8 * size, dtype=torch.long)
    mask[:, 6:] = 0
    return _picture(batch, size) | {"attention_mask": mask}


def _pixel_dit() -> torch.nn.Module:
    return comfy.ldm.pixeldit.model.PixDiT_T2I(**_PIXEL_DIT, **FACTORY)


_PIXEL_DIT = {
    "num_groups": 2, "hidden_size": 128, "pixel_hidden_size": 16, "pixel_attn_hidden_size": 128, "pixel_num_groups": 2,
    "patch_depth": 2, "pixel_depth": 1, "patch_size": 8, "txt_embed_dim": 48, "txt_max_length": 20,
}  # fmt: skip


def _pid() -> torch.nn.Module:
    return comfy.ldm.pixeldit.pid.PidNet(lq_hidden_dim=32, lq_num_res_blocks=1, sr_scale=2, **_PIXEL_DIT, **FACTORY)


def _call_pixels(m: Any, t: Inputs) -> Any:
    named = {name: t[name] for name in ("lq_latent", "degrade_sigma") if name in t}
    return m(t["x"], t["timestep"], context=t["context"], transformer_options={}, **named)


def _pixels(batch: int, size: int) -> Inputs:
    """A small picture: software Vulkan takes as long for the norm of a pixel's 16 numbers as for that of 512."""
    return _picture(batch, size) | {"x": torch.randn(batch, 3, 16 + 8 * size, 16)}


def _low_quality(batch: int, size: int) -> Inputs:
    inputs = _picture(batch, size) | {"x": torch.randn(batch, 3, 16 + 16 * size, 16)}
    return inputs | {"lq_latent": torch.randn(batch, 16, 1 + size, 1), "degrade_sigma": torch.rand(batch)}


def _hidream_o1() -> torch.nn.Module:
    text = {
        "vocab_size": 151936, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 128,
    }  # fmt: skip
    vision = {"hidden_size": 32, "intermediate_size": 48, "depth": 1, "num_heads": 2, "deepstack_visual_indexes": []}
    return comfy.ldm.hidream_o1.model.HiDreamO1Transformer(
        text_config_overrides=text, vision_config_overrides=vision, **FACTORY
    )


def _o1_inputs(batch: int, size: int) -> Inputs:
    x = torch.randn(batch, 3, 64 + 32 * size, 64)
    ids = torch.randint(0, 1000, (batch, 7))
    conds = build_extra_conds(ids, x, ref_images=None, target_patch_size=32)
    return {"x": x, "timestep": 1000 * torch.rand(batch)} | {
        n: c for n, c in conds.items() if isinstance(c, torch.Tensor)
    }


def _call_o1(m: Any, t: Inputs) -> Any:
    named = {name: x for name, x in t.items() if name not in ("x", "timestep")}
    return m(t["x"], t["timestep"], transformer_options={}, ar_len=t["input_ids"].shape[1], **named)


CASES = (
    FamilyCase("Lumina 2", _next_dit, _call, _picture),
    FamilyCase("Lumina 2 (mask)", _next_dit, _call, _masked),
    FamilyCase("NewBie (Lumina 2 with CLIP)", lambda: _next_dit(clip_text_dim=32), _call,
               lambda n, s: _picture(n, s, clip_text_pooled=(32,))),
    FamilyCase("Z-Image", _z_image, _call, _picture),
    FamilyCase("Z-Image omni (reference latent)", lambda: _z_image(siglip_feat_dim=40), _call,
               lambda n, s: _picture(n, s, ref_latents=(16, 6, 8), ref_contexts=(5, 48), siglip_feats=(4, 5, 40))),
    FamilyCase("Z-Image pixel space", _z_pixels, _call, lambda n, s: _picture(n, s, 3, 4)),
    FamilyCase("PixelDiT", _pixel_dit, _call_pixels, _pixels),
    FamilyCase("PiD", _pid, _call_pixels, _low_quality),
    FamilyCase("HiDream O1", _hidream_o1, _call_o1, _o1_inputs, GELU),
)  # fmt: skip
