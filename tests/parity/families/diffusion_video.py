"""Transformers for video other than Wan: HunyuanVideo, LTX, Mochi, CogVideoX, Cosmos, Kandinsky, SeedVR2, MiniMax."""

from __future__ import annotations

from typing import Any

import comfy.ldm.anima.model
import comfy.ldm.cogvideo.model
import comfy.ldm.cosmos.model
import comfy.ldm.cosmos.predict2
import comfy.ldm.genmo.joint_model.asymm_models_joint
import comfy.ldm.hunyuan_video.model
import comfy.ldm.kandinsky5.model
import comfy.ldm.lightricks.av_model
import comfy.ldm.lightricks.model
import comfy.ldm.minimax.model
import comfy.ldm.seedvr.model
import torch

from ..model_cases import Inputs
from .case import FACTORY, GELU, FamilyCase


def _call(m: Any, t: Inputs, **more: Any) -> Any:
    named = {name: x for name, x in t.items() if name not in ("x", "timestep", "context")}
    return m(t["x"], t["timestep"], t["context"], transformer_options={}, **named, **more)


def _video(batch: int, size: int, channels: int = 16, **more: tuple[int, ...]) -> Inputs:
    """more: shapes without the batch."""
    inputs = {
        "x": torch.randn(batch, channels, 2 + size, 6, 8 - 2 * size), "timestep": torch.rand(batch),
        "context": torch.randn(batch, 9 + 3 * size, 48),
    }  # fmt: skip
    return inputs | {name: torch.randn(batch, *shape) for name, shape in more.items()}


def _mask(batch: int, size: int) -> torch.Tensor:
    mask = torch.ones(batch, 9 + 3 * size, dtype=torch.long)
    mask[:, 6:] = 0
    return mask


def _hunyuan(**config: Any) -> torch.nn.Module:
    config = {
        "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2], "vec_in_dim": 32, "axes_dim": [16, 56, 56],
        "meanflow": False, "context_in_dim": 48, "hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 1, "depth": 1,
        "depth_single_blocks": 1, "theta": 256, "qkv_bias": True, "byt5": False, "guidance_embed": True,
        "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
    } | config  # fmt: skip
    return comfy.ldm.hunyuan_video.model.HunyuanVideo(**config, **FACTORY)


def _hunyuan_15() -> torch.nn.Module:
    return _hunyuan(
        in_channels=65, out_channels=32, patch_size=[1, 1, 1], vec_in_dim=None, guidance_embed=False, byt5=True,
        use_cond_type_embedding=True, vision_in_dim=40, meanflow_sum=True,
    )  # fmt: skip


def _guided(batch: int, size: int) -> Inputs:
    return _video(batch, size, y=(32,)) | {"guidance": torch.full((batch,), 6.0)}


def _guiding_frame(batch: int, size: int) -> Inputs:
    inputs = _guided(batch, size) | {"guiding_frame_index": torch.zeros(batch)}
    return inputs | {"ref_latent": torch.randn(batch, 16, 1, *inputs["x"].shape[3:])}


def _cosmos() -> torch.nn.Module:
    return comfy.ldm.cosmos.model.GeneralDIT(
        max_img_h=32, max_img_w=32, max_frames=16, in_channels=16, out_channels=16, patch_spatial=2, patch_temporal=1,
        model_channels=128, block_config="FA-CA-MLP", num_blocks=2, num_heads=2, concat_padding_mask=True,
        crossattn_emb_channels=48, pos_emb_cls="rope3d", pos_emb_learnable=False, pos_emb_interpolation="crop",
        block_x_format="THWBD", affline_emb_norm=True, use_adaln_lora=True, adaln_lora_dim=16,
        extra_per_block_abs_pos_emb=True, rope_h_extrapolation_ratio=1.0, rope_w_extrapolation_ratio=1.0,
        rope_t_extrapolation_ratio=2.0, extra_per_block_abs_pos_emb_type="learnable", **FACTORY,
    )  # fmt: skip


def _predict2(kind: type[torch.nn.Module], context: int) -> torch.nn.Module:
    return kind(
        max_img_h=32, max_img_w=32, max_frames=16, in_channels=16, out_channels=16, patch_spatial=2, patch_temporal=1,
        model_channels=128, num_blocks=2, num_heads=2, concat_padding_mask=True, crossattn_emb_channels=context,
        pos_emb_cls="rope3d", pos_emb_learnable=True, pos_emb_interpolation="crop", min_fps=1, max_fps=30,
        use_adaln_lora=True, adaln_lora_dim=16, extra_per_block_abs_pos_emb=False, rope_h_extrapolation_ratio=4.0,
        rope_w_extrapolation_ratio=4.0, rope_t_extrapolation_ratio=1.0, extra_h_extrapolation_ratio=1.0,
        extra_w_extrapolation_ratio=1.0, extra_t_extrapolation_ratio=1.0, rope_enable_fps_modulation=False, **FACTORY,
    )  # fmt: skip


def _anima() -> torch.nn.Module:
    """The adapter for the text, which has no width of its own, is that of the model but for its layers."""
    model = _predict2(comfy.ldm.anima.model.Anima, 1024)
    model.llm_adapter = comfy.ldm.anima.model.LLMAdapter(
        source_dim=48, target_dim=64, model_dim=64, num_layers=1, num_heads=2, **FACTORY
    )
    for block in model.blocks:
        block.cross_attn.k_proj = comfy.ops.disable_weight_init.Linear(64, 128, bias=False)
        block.cross_attn.v_proj = comfy.ops.disable_weight_init.Linear(64, 128, bias=False)
    return model


def _cosmos_inputs(batch: int, size: int, more: bool = False) -> Inputs:
    inputs = _video(batch, size)
    if more:
        height, width = (8 * n for n in inputs["x"].shape[3:])
        inputs |= {"fps": torch.full((1,), 24.0), "padding_mask": torch.zeros(batch, 1, height, width)}
    return inputs


def _mochi() -> torch.nn.Module:
    """The class asserts the widths of its feed-forwards: 12288 and 6144."""
    return comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint(
        depth=2, patch_size=2, num_heads=2, hidden_size_x=128, hidden_size_y=64, mlp_ratio_x=96.0, mlp_ratio_y=96.0,
        learn_sigma=False, in_channels=12, qk_norm=True, qkv_bias=False, out_bias=True, attn_drop=0.0,
        patch_embed_bias=True, posenc_preserve_area=True, timestep_mlp_bias=True, attend_to_padding=False,
        timestep_scale=1000.0, use_t5=True, t5_feat_dim=48, t5_token_length=256, rope_theta=10000.0, **FACTORY,
    )  # fmt: skip


def _call_mochi(m: Any, t: Inputs) -> Any:
    return _call(m, t, num_tokens=6)  # what the mask lets through


_LTX = {
    "num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 64, "cross_attention_dim": 128,
    "caption_channels": 48, "positional_embedding_theta": 10000.0, "positional_embedding_max_pos": [20, 2048, 2048],
}  # fmt: skip


def _ltx() -> torch.nn.Module:
    return comfy.ldm.lightricks.model.LTXVModel(**_LTX, causal_temporal_positioning=True, **FACTORY)


def _ltx_av(rope: str) -> torch.nn.Module:
    return comfy.ldm.lightricks.av_model.LTXAVModel(
        **_LTX, audio_cross_attention_dim=64, audio_attention_head_dim=32, audio_num_attention_heads=2,
        causal_temporal_positioning=True, use_middle_indices_grid=True, connector_attention_head_dim=32,
        connector_num_attention_heads=1, connector_num_layers=1, rope_type=rope, **FACTORY,
    )  # fmt: skip


def _call_ltx(m: Any, t: Inputs) -> Any:
    named = {name: t[name] for name in ("keyframe_idxs", "denoise_mask") if name in t}
    return m(
        t["x"], t["timestep"], t["context"], t.get("attention_mask"), frame_rate=25, transformer_options={}, **named
    )


def _ltx_masked(batch: int, size: int) -> Inputs:
    """The timestep of each token, as LTXV.process_timestep makes it of the mask."""
    inputs = _video(batch, size, 128)
    tokens = inputs["x"][0, 0].numel()
    return inputs | {"timestep": torch.rand(batch, tokens, 1), "attention_mask": _mask(batch, size)}


def _ltx_keyframes(batch: int, size: int) -> Inputs:
    inputs = _video(batch, size, 128)
    frames, height, width = inputs["x"].shape[2:]
    return inputs | {
        "keyframe_idxs": torch.rand(batch, 3, height * width, 2),
        "timestep": torch.rand(batch, frames * height * width, 1),
        "denoise_mask": torch.ones(batch, 1, frames, height, width),
    }  # fmt: skip


def _call_av(m: Any, t: Inputs) -> Any:
    return m(
        [t["x"], t["audio"]], (t["timestep"], t["timestep"]), t["context"], None, frame_rate=25,
        transformer_options={},
    )  # fmt: skip


def _av_inputs(batch: int, size: int) -> Inputs:
    inputs = _video(batch, size, 128, audio=(8, 11 + size, 16))
    return inputs | {"context": torch.randn(batch, 9 + 3 * size, 96)}


def _kandinsky(axes: tuple[int, ...] = (16, 24, 24), **config: Any) -> torch.nn.Module:
    return comfy.ldm.kandinsky5.model.Kandinsky5(
        in_text_dim=48, in_text_dim2=32, time_dim=32, model_dim=128, ff_dim=256, num_text_blocks=1,
        num_visual_blocks=2, axes_dims=axes, **config, **FACTORY,
    )  # fmt: skip


def _cogvideo(**config: Any) -> torch.nn.Module:
    return comfy.ldm.cogvideo.model.CogVideoXTransformer3DModel(
        num_attention_heads=3, attention_head_dim=64, time_embed_dim=32, text_embed_dim=48, num_layers=2, **config,
        **FACTORY,
    )  # fmt: skip


def _seedvr() -> torch.nn.Module:
    return comfy.ldm.seedvr.model.NaDiT(
        norm_eps=1e-5, num_layers=2, mlp_type="swiglu", vid_dim=128, txt_in_dim=48, heads=1, head_dim=128, mm_layers=1,
        vid_out_norm=True, **FACTORY,
    )  # fmt: skip


def _call_seedvr(m: Any, t: Inputs) -> Any:
    options = {"cond_or_uncond": [0]}
    return m(t["x"], t["timestep"], t["context"], condition=t["condition"], transformer_options=options)


def _seedvr_inputs(batch: int, size: int) -> Inputs:
    inputs = _video(batch, size)
    return inputs | {"condition": torch.randn(batch, 17, *inputs["x"].shape[2:])}


def _minimax() -> torch.nn.Module:
    model = comfy.ldm.minimax.model.MiniMaxH3Model(
        hidden_size=128, num_layers=2, token_refiner_num_layers=1, num_attention_heads=1, ffn_hidden_size=256,
        text_dim=48, timestep_input_dim=32, time_embed_hidden_size=64, time_embed_dim=32, **FACTORY,
    )  # fmt: skip
    model.rope.inv_freq.copy_(10000.0 ** -torch.linspace(0, 1, 17)[:-1])  # a file holds it
    return model


def _call_minimax(m: Any, t: Inputs) -> Any:
    return m([t["x"], t["audio"]], t["timestep"], t["context"], transformer_options={}, minimax_payload={})


CASES = (
    FamilyCase("HunyuanVideo", _hunyuan, _call, _guided, GELU),
    FamilyCase("HunyuanVideo (mask)", _hunyuan, _call,
               lambda n, s: _guided(n, s) | {"attention_mask": _mask(1, s)}, GELU),
    FamilyCase("HunyuanVideo I2V (guiding frame)", _hunyuan, _call,
               lambda n, s: _guiding_frame(1, s), GELU),
    FamilyCase("HunyuanVideo 1.5", _hunyuan_15, _call,
               lambda n, s: _video(n, s, 65, txt_byt5=(5, 1472), clip_fea=(7, 40)), GELU, fresh=True),
    FamilyCase("Mochi", _mochi, _call_mochi,
               lambda n, s: _video(n, s, 12) | {"attention_mask": _mask(n, s)}),
    FamilyCase("LTX-Video", _ltx, _call_ltx, lambda n, s: _video(n, s, 128), GELU),
    FamilyCase("LTX-Video (mask, denoise mask)", _ltx, _call_ltx, _ltx_masked, GELU),
    FamilyCase("LTX-Video (keyframes)", _ltx, _call_ltx, _ltx_keyframes, GELU),
    FamilyCase("LTX-2 (audio and video)", lambda: _ltx_av("split"), _call_av, _av_inputs, GELU),
    FamilyCase("LTX-2 (interleaved rope)", lambda: _ltx_av("interleaved"), _call_av, _av_inputs, GELU),
    FamilyCase("Kandinsky 5 video", lambda: _kandinsky(visual_embed_dim=132), _call,
               lambda n, s: _video(n, s, 33, y=(32,))),
    FamilyCase("Kandinsky 5 image", lambda: _kandinsky(
        (32, 48, 48), visual_embed_dim=64, rope_scale_factor=(1.0, 1.0, 1.0)), _call,
        lambda n, s: _video(n, s, 16, y=(32,)) | {"x": torch.randn(n, 16, 1, 6 + 4 * s, 8)}),
    FamilyCase("CogVideoX 5B (rotary)", lambda: _cogvideo(use_rotary_positional_embeddings=True), _call, _video, GELU),
    FamilyCase("CogVideoX 2B (sincos)", _cogvideo, _call, _video, GELU),
    FamilyCase("CogVideoX 1.5 i2v", lambda: _cogvideo(
        in_channels=32, patch_size_t=2, ofs_embed_dim=32, use_rotary_positional_embeddings=True), _call,
        lambda n, s: _video(n, s, 32) | {"x": torch.randn(n, 32, 4, 6 + 2 * s, 8), "ofs": torch.full((n,), 2.0)}, GELU),
    FamilyCase("Cosmos 1", _cosmos, _call, _cosmos_inputs, GELU),
    FamilyCase("Cosmos 1 (fps, padding mask)", _cosmos, _call, lambda n, s: _cosmos_inputs(n, s, True), GELU),
    FamilyCase("Cosmos Predict2", lambda: _predict2(comfy.ldm.cosmos.predict2.MiniTrainDIT, 48), _call, _video, GELU),
    FamilyCase("Anima", _anima, _call,
               lambda n, s: _video(n, s) | {"t5xxl_ids": torch.randint(0, 1000, (n, 7 + s))}, GELU),
    FamilyCase("SeedVR2 3B", _seedvr, _call_seedvr, _seedvr_inputs),
    FamilyCase("MiniMax H3 (audio and video)", _minimax, _call_minimax,
               lambda n, s: _video(1, s, 24, audio=(32, 2, 6 + s)) | {"timestep": 1000 * torch.rand(1)}, GELU),
)  # fmt: skip
