"""Transformers for pictures that stand alone: SD3, Qwen-Image, PixArt, Krea 2, Kandinsky and others."""

from __future__ import annotations

from typing import Any

import comfy.ldm.aura.mmdit
import comfy.ldm.boogu.model
import comfy.ldm.ernie.model
import comfy.ldm.hidream.model
import comfy.ldm.hunyuan_video.model
import comfy.ldm.hydit.models
import comfy.ldm.ideogram4.model
import comfy.ldm.joyimage.model
import comfy.ldm.krea2.model
import comfy.ldm.lens.model
import comfy.ldm.mage_flow.model
import comfy.ldm.omnigen.omnigen2
import comfy.ldm.pixart.pixartms
import comfy.ldm.qwen_image.model
import torch
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

from ..model_cases import Inputs
from .case import FACTORY, GELU, FamilyCase


def _call(m: Any, t: Inputs, **more: Any) -> Any:
    """As _apply_model does, whatever the names of the first two parameters are."""
    named = {name: x for name, x in t.items() if name not in ("x", "timestep", "reference")}
    if "reference" in t:
        named["ref_latents"] = [t["reference"]]
    return m(t["x"], t["timestep"], **named, control=None, transformer_options={}, **more)


def _call_tokens(m: Any, t: Inputs) -> Any:
    return _call(m, t, num_tokens=t["context"].shape[1])


def _picture(batch: int, size: int, channels: int = 16, text: int = 48, **more: Any) -> Inputs:
    """more: by name, a function of the batch."""
    inputs = {
        "x": torch.randn(batch, channels, 8 + 4 * size, 12), "timestep": torch.rand(batch),
        "context": torch.randn(batch, 9 + 8 * size, text),
    }  # fmt: skip
    return inputs | {name: make(batch) for name, make in more.items()}


def _frame(batch: int, size: int, **more: Any) -> Inputs:
    inputs = _picture(batch, size, **more)
    return inputs | {"x": inputs["x"][:, :, None]}


def _mask(batch: int, size: int) -> torch.Tensor:
    mask = torch.ones(batch, 9 + 8 * size, dtype=torch.long)
    mask[:, 6:] = 0
    return mask


def _random(*shape: int) -> Any:
    return lambda batch: torch.randn(batch, *shape)


def _sd3(**config: Any) -> torch.nn.Module:
    config = {
        "in_channels": 16, "depth": 2, "num_blocks": 3, "adm_in_channels": 32, "pos_embed_max_size": 24,
        "num_patches": 576, "input_size": None, "context_size": 48, "pos_embed_scaling_factor": None,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 48, "out_features": 128}},
    } | config  # fmt: skip
    return OpenAISignatureMMDITWrapper(**config, **FACTORY)


def _aura() -> torch.nn.Module:
    return comfy.ldm.aura.mmdit.MMDiT(
        dim=256, n_layers=3, n_double_layers=1, n_heads=1, global_conddim=256, cond_seq_dim=48, max_seq=256, **FACTORY
    )


def _pixart(micro: bool) -> torch.nn.Module:
    return comfy.ldm.pixart.pixartms.PixArtMS(
        input_size=32, hidden_size=96, depth=2, num_heads=4, caption_channels=48, pe_interpolation=1,
        model_max_length=20, micro_condition=micro, **FACTORY,
    )  # fmt: skip


def _pixart_inputs(batch: int, size: int, micro: bool) -> Inputs:
    more = {"c_size": lambda n: torch.full((n, 2), 512.0), "c_ar": lambda n: torch.ones(n, 1)} if micro else {}
    return _picture(batch, size, 4, **more) | {"x": torch.randn(batch, 4, 34 + 6 * size, 36)}


def _hydit(**config: Any) -> torch.nn.Module:
    return comfy.ldm.hydit.models.HunYuanDiT(
        hidden_size=128, depth=4, num_heads=2, text_states_dim=48, text_states_dim_t5=64, text_len=9, text_len_t5=12,
        log_fn=lambda *_: None, **config, **FACTORY,
    )  # fmt: skip


def _hydit_inputs(batch: int, size: int, sizes: bool = False) -> Inputs:
    inputs = _picture(batch, size, 4) | {"context": torch.randn(batch, 9, 48)}
    inputs["text_embedding_mask"] = _mask(batch, 0)
    inputs["encoder_hidden_states_t5"] = torch.randn(batch, 12, 64)
    inputs["text_embedding_mask_t5"] = torch.ones(batch, 12, dtype=torch.long)
    return inputs | ({"image_meta_size": torch.full((batch, 6), 512.0)} if sizes else {})


def _call_hydit(m: Any, t: Inputs) -> Any:
    style = torch.zeros(t["x"].shape[0], dtype=torch.long) if "image_meta_size" in t else None
    return _call(m, t, style=style)


def _hunyuan_image(**config: Any) -> torch.nn.Module:
    config = {
        "in_channels": 64, "out_channels": 64, "patch_size": [1, 1], "vec_in_dim": None, "axes_dim": [64, 64],
        "meanflow": False, "context_in_dim": 48, "hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 1, "depth": 1,
        "depth_single_blocks": 1, "theta": 256, "qkv_bias": True, "byt5": True, "guidance_embed": False,
        "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
    } | config  # fmt: skip
    return comfy.ldm.hunyuan_video.model.HunyuanVideo(**config, **FACTORY)


def _qwen(**config: Any) -> torch.nn.Module:
    return comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(
        num_layers=2, num_attention_heads=1, joint_attention_dim=48, **config, **FACTORY
    )


def _call_layered(m: Any, t: Inputs) -> Any:
    return _call(m, t, additional_t_cond=torch.zeros(t["x"].shape[0], dtype=torch.long))


def _omnigen() -> torch.nn.Module:
    return comfy.ldm.omnigen.omnigen2.OmniGen2Transformer2DModel(
        hidden_size=240, num_layers=1, num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1, multiple_of=32,
        axes_dim_rope=(40, 40, 40), axes_lens=(64, 32, 32), text_feat_dim=48, timestep_scale=1000.0, **FACTORY,
    )  # fmt: skip


def _boogu() -> torch.nn.Module:
    return comfy.ldm.boogu.model.BooguTransformer2DModel(
        hidden_size=240, num_layers=1, num_double_stream_layers=1, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=32, axes_dim_rope=(40, 40, 40), axes_lens=(64, 32, 32), instruction_feat_dim=48,
        **FACTORY,
    )  # fmt: skip


def _hidream() -> torch.nn.Module:
    return comfy.ldm.hidream.model.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=128,
        num_attention_heads=1, caption_channels=[48, 48], text_emb_dim=32, axes_dims_rope=(64, 32, 32),
        max_resolution=(16, 16), llama_layers=[0, 1], **FACTORY,
    )  # fmt: skip


def _call_hidream(m: Any, t: Inputs) -> Any:
    return m(
        t["x"], t["timestep"], y=t["y"], context=t["context"], encoder_hidden_states_llama3=t["llama"], control=None,
        transformer_options={},
    )  # fmt: skip


def _lens() -> torch.nn.Module:
    return comfy.ldm.lens.model.LensTransformer2DModel(
        num_layers=2, num_attention_heads=2, enc_hidden_dim=48, selected_layer_index=(0, 1), **FACTORY
    )


def _ideogram() -> torch.nn.Module:
    return comfy.ldm.ideogram4.model.Ideogram4Transformer2DModel(
        num_layers=2, num_attention_heads=1, attention_head_dim=128, intermediate_size=256, adaln_dim=32,
        llm_features_dim=48, **FACTORY,
    )  # fmt: skip


def _krea() -> torch.nn.Module:
    return comfy.ldm.krea2.model.SingleStreamDiT(
        features=256, tdim=32, txtdim=48, heads=2, kvheads=1, multiplier=2, layers=2, txtlayers=3, txtheads=2,
        txtkvheads=2, **FACTORY,
    )  # fmt: skip


def _ernie() -> torch.nn.Module:
    return comfy.ldm.ernie.model.ErnieImageModel(
        hidden_size=256, num_attention_heads=2, num_layers=2, ffn_hidden_size=384, text_in_dim=48, **FACTORY
    )


def _joy() -> torch.nn.Module:
    return comfy.ldm.joyimage.model.JoyImageTransformer3DModel(
        hidden_size=128, num_attention_heads=1, text_dim=48, num_layers=2, **FACTORY
    )


def _mage() -> torch.nn.Module:
    return comfy.ldm.mage_flow.model.MageFlowTransformer2DModel(
        num_layers=2, num_attention_heads=1, joint_attention_dim=48, **FACTORY
    )


def _call_mage(m: Any, t: Inputs) -> Any:
    """model_base.MageFlow rounds the timestep to BF16."""
    return _call(m, t | {"timestep": t["timestep"].to(torch.bfloat16)})


CASES = (
    FamilyCase("SD3", _sd3, _call, lambda n, s: _picture(n, s, y=_random(32)), GELU),
    FamilyCase("SD3.5 large (qk rms)", lambda: _sd3(qk_norm="rms"), _call,
               lambda n, s: _picture(n, s, y=_random(32)), GELU),
    FamilyCase("SD3.5 medium (x self attention)", lambda: _sd3(qk_norm="rms", x_block_self_attn_layers=[0, 1]), _call,
               lambda n, s: _picture(n, s, y=_random(32)), GELU),
    FamilyCase("AuraFlow", _aura, _call, lambda n, s: _picture(n, s, 4)),
    FamilyCase("PixArt Alpha", lambda: _pixart(True), _call, lambda n, s: _pixart_inputs(n, s, True), GELU),
    FamilyCase("PixArt Sigma", lambda: _pixart(False), _call, lambda n, s: _pixart_inputs(n, s, False), GELU),
    FamilyCase("HunyuanDiT 1.2", _hydit, _call_hydit, _hydit_inputs, GELU),
    FamilyCase("HunyuanDiT 1.1 (size, style)", lambda: _hydit(size_cond=True, use_style_cond=True), _call_hydit,
               lambda n, s: _hydit_inputs(n, s, True), GELU),
    FamilyCase("HunyuanImage 2.1", _hunyuan_image, _call,
               lambda n, s: _picture(n, s, 64, txt_byt5=_random(5, 1472)), GELU),
    FamilyCase("HunyuanImage 2.1 distilled (meanflow)", lambda: _hunyuan_image(meanflow=True, guidance_embed=True),
               lambda m, t: m(t["x"], t["timestep"], t["context"], txt_byt5=t["byt5"], guidance=t["guidance"],
                              transformer_options={
                   "sigmas": t["timestep"][:1], "sample_sigmas": torch.tensor([1.0, 0.5, 0.0])}),
               lambda n, s: _picture(n, s, 64, byt5=_random(5, 1472), guidance=lambda n: torch.full((n,), 3.5)) | {
                   "timestep": torch.full((n,), 0.5)}, GELU),
    FamilyCase("Qwen-Image", _qwen, _call, _frame, GELU),
    FamilyCase("Qwen-Image (mask)", _qwen, _call, lambda n, s: _frame(n, s) | {"attention_mask": _mask(n, s)}, GELU),
    FamilyCase("Qwen-Image Edit (reference latents)", _qwen, _call,
               lambda n, s: _frame(n, s, reference=_random(16, 1, 6, 8)), GELU),
    FamilyCase("Qwen-Image Edit 2511 (timestep zero)", lambda: _qwen(default_ref_method="index_timestep_zero"), _call,
               lambda n, s: _frame(n, s, reference=_random(16, 1, 6, 8)), GELU),
    FamilyCase("Qwen-Image Layered", lambda: _qwen(use_additional_t_cond=True, default_ref_method="negative_index"),
               _call_layered, lambda n, s: _frame(n, s, reference=_random(16, 1, 6, 8)) | {
                   "x": torch.randn(n, 16, 3, 8 + 4 * s, 12)}, GELU),
    FamilyCase("OmniGen2", _omnigen, _call_tokens, _picture),
    FamilyCase("OmniGen2 (reference latent)", _omnigen, _call_tokens,
               lambda n, s: _picture(n, s, reference=_random(16, 6, 8))),
    FamilyCase("Boogu", _boogu, _call_tokens, _picture),
    FamilyCase("HiDream", _hidream, _call_hidream,
               lambda n, s: _picture(n, s, y=_random(32), llama=_random(2, 11, 48))),
    FamilyCase("Lens", _lens, _call, lambda n, s: _picture(n, s, 128, 96)),
    FamilyCase("Ideogram 4", _ideogram, _call, lambda n, s: _picture(n, s, 128)),
    FamilyCase("Krea 2", _krea, _call, lambda n, s: _picture(n, s, text=3 * 48), GELU),
    FamilyCase("Ernie image", _ernie, _call, lambda n, s: _picture(n, s, 128)),
    FamilyCase("JoyImage", _joy, _call, _frame, GELU),
    FamilyCase("Mage-Flow", _mage, _call_mage, lambda n, s: _picture(n, s, 128), GELU),
)  # fmt: skip
