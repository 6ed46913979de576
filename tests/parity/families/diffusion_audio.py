"""Transformers for sound and for three dimensions."""

from __future__ import annotations

from typing import Any

import comfy.ldm.ace.ace_step15
import comfy.ldm.ace.lyric_encoder
import comfy.ldm.ace.model
import comfy.ldm.audio.dit
import comfy.ldm.hunyuan3d.model
import comfy.ldm.hunyuan3dv2_1.hunyuandit
import comfy.ldm.triposplat.model
import torch

from ..model_cases import Inputs
from .case import FACTORY, GELU, FamilyCase


def _call(m: Any, t: Inputs, **more: Any) -> Any:
    named = {name: x for name, x in t.items() if name not in ("x", "timestep")}
    return m(t["x"], t["timestep"], transformer_options={}, **named, **more)


def _sequence(batch: int, size: int, *shape: int, **more: tuple[int, ...]) -> Inputs:
    """more: shapes without the batch."""
    inputs = {
        "x": torch.randn(batch, *shape), "timestep": torch.rand(batch), "context": torch.randn(batch, 9 + 3 * size, 48)
    }  # fmt: skip
    return inputs | {name: torch.randn(batch, *more_shape) for name, more_shape in more.items()}


def _rope_of_the_file(model: torch.nn.Module) -> torch.nn.Module:
    """Gives inv_freq, which comes with the weights, the values that it has there."""
    rope = model.transformer.rotary_pos_emb
    rope.inv_freq.copy_(10000.0 ** -torch.linspace(0, 1, len(rope.inv_freq) + 1)[:-1])
    return model


def _stable_audio() -> torch.nn.Module:
    return comfy.ldm.audio.dit.AudioDiffusionTransformer(
        audio_model="dit1.0", io_channels=16, embed_dim=128, cond_token_dim=128, project_cond_tokens=False,
        global_cond_dim=96, depth=2, num_heads=2, timestep_features_type="learned", **FACTORY,
    )  # fmt: skip


def _stable_audio_3() -> torch.nn.Module:
    return comfy.ldm.audio.dit.AudioDiffusionTransformer(
        audio_model="dit1.0", io_channels=16, embed_dim=128, cond_token_dim=128, project_cond_tokens=False,
        global_cond_dim=48, depth=2, num_heads=2, timestep_features_type="expo", num_memory_tokens=4,
        attn_kwargs={"qk_norm": "rms", "differential": True}, norm_type="rms_norm", global_cond_type="adaLN",
        global_cond_shared_embed=True, local_add_cond_dim=17, **FACTORY,
    )  # fmt: skip


def _ace() -> torch.nn.Module:
    model = comfy.ldm.ace.model.ACEStepTransformer2DModel(
        num_layers=2, inner_dim=128, attention_head_dim=64, num_attention_heads=2, mlp_ratio=2.0, max_position=512,
        max_width=512, text_embedding_dim=48, ssl_latent_dims=[16, 16], lyric_encoder_vocab_size=100,
        lyric_hidden_size=64, **FACTORY,
    )  # fmt: skip
    model.lyric_encoder = comfy.ldm.ace.lyric_encoder.ConformerEncoder(
        input_size=64, output_size=64, attention_heads=2, linear_units=96, num_blocks=1, static_chunk_size=0, **FACTORY
    )
    return model


def _ace_inputs(batch: int, size: int) -> Inputs:
    inputs = _sequence(batch, size, 8, 16, 12 + 5 * size, speaker_embeds=(512,))
    return inputs | {"lyric_token_idx": torch.randint(1, 100, (batch, 6 + size))}


def _ace_15() -> torch.nn.Module:
    return comfy.ldm.ace.ace_step15.AceStepConditionGenerationModel(
        hidden_size=128, text_hidden_dim=48, num_dit_layers=2, num_lyric_layers=1, num_timbre_layers=1,
        num_tokenizer_layers=1, num_heads=2, num_kv_heads=1, head_dim=64, intermediate_size=192, sliding_window=8,
        fsq_dim=128, encoder_hidden_size=128, encoder_intermediate_size=192, encoder_num_heads=2, **FACTORY,
    )  # fmt: skip


def _call_ace_15(m: Any, t: Inputs) -> Any:
    return _call(m, t, is_covers=False)


def _hunyuan3d() -> torch.nn.Module:
    return comfy.ldm.hunyuan3d.model.Hunyuan3Dv2(
        in_channels=64, context_in_dim=48, hidden_size=128, num_heads=2, depth=1, depth_single_blocks=2,
        guidance_embed=True, **FACTORY,
    )  # fmt: skip


def _hunyuan3d_21() -> torch.nn.Module:
    return comfy.ldm.hunyuan3dv2_1.hunyuandit.HunYuanDiTPlain(
        hidden_size=128, context_dim=48, depth=3, num_heads=2, num_moe_layers=1, guidance_cond_proj_dim=None,
        num_experts=4, **FACTORY,
    )  # fmt: skip


def _triposplat() -> torch.nn.Module:
    return comfy.ldm.triposplat.model.LatentSeqMMFlowModel(
        q_token_length=32, model_channels=128, cond_channels=48, num_blocks=2, num_refiner_blocks=1, **FACTORY
    )


def _call_triposplat(m: Any, t: Inputs) -> Any:
    return m(
        [t["x"], t["camera"]], t["timestep"], context=t["context"], ref_latents=[t["reference"]],
        transformer_options={},
    )  # fmt: skip


CASES = (
    FamilyCase("Stable Audio 1", lambda: _rope_of_the_file(_stable_audio()), _call,
               lambda n, s: _sequence(n, s, 16, 20 + 6 * s, global_embed=(96,)) | {
                   "context": torch.randn(n, 9 + 3 * s, 128)}, GELU),
    FamilyCase("Stable Audio 3", lambda: _rope_of_the_file(_stable_audio_3()), _call, lambda n, s: _sequence(
        n, s, 16, 20 + 6 * s, global_embed=(48,), local_add_cond=(17, 20 + 6 * s)) | {
        "context": torch.randn(n, 9 + 3 * s, 128)}, GELU),
    FamilyCase("ACE-Step 1", _ace, _call, _ace_inputs, GELU),
    FamilyCase("ACE-Step 1.5", _ace_15, _call_ace_15, lambda n, s: _sequence(
        n, s, 64, 20 + 10 * s, lyric_embed=(7, 48), refer_audio=(64, 20 + 10 * s)), GELU),
    FamilyCase("Hunyuan3D 2.0", _hunyuan3d, _call,
               lambda n, s: _sequence(n, s, 64, 20 + 6 * s) | {"guidance": torch.full((n,), 5.0)}, GELU),
    FamilyCase("Hunyuan3D 2.1 (MoE)", _hunyuan3d_21, _call, lambda n, s: _sequence(2 * n, s, 64, 20 + 6 * s), GELU),
    FamilyCase("TripoSplat", _triposplat, _call_triposplat, lambda n, s: _sequence(
        n, s, 32, 16, camera=(1, 5), reference=(128, 2, 2 + s)), GELU),
)  # fmt: skip
