"""Language models that encode text: Llama, Mistral, Qwen, Gemma, GPT-OSS, and their eyes."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import comfy.ops
import comfy.text_encoders.gemma4
import comfy.text_encoders.gpt_oss
import comfy.text_encoders.llama
import comfy.text_encoders.qwen3vl
import comfy.text_encoders.qwen35
import comfy.text_encoders.qwen_vl
import torch
from comfy.text_encoders import llama

from ..model_cases import Inputs
from .case import EXACT, FACTORY, GELU, FamilyCase

_OPERATIONS = FACTORY["operations"]
_SMALL = {
    "vocab_size": 500, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
_VISION = {
    "num_channels": 3, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 64, "image_size": 112,
    "intermediate_size": 96, "model_type": "siglip_vision_model", "num_attention_heads": 2, "num_hidden_layers": 2,
    "patch_size": 14,
}  # fmt: skip


def _model(kind: type[torch.nn.Module], **config: Any) -> torch.nn.Module:
    return kind(_SMALL | config, torch.float32, "cpu", _OPERATIONS)


def _qwen25_vl() -> torch.nn.Module:
    vision = {"hidden_size": 64, "intermediate_size": 96, "num_heads": 2, "num_layers": 2}
    make = comfy.text_encoders.qwen_vl.Qwen2VLVisionTransformer

    def small(**config: Any) -> torch.nn.Module:
        return make(**(config | vision))

    with patch.object(comfy.text_encoders.qwen_vl, "Qwen2VLVisionTransformer", small):
        model = _model(llama.Qwen25_7BVLI)
    model.visual.fullatt_block_indexes = [1]
    return model


def _qwen3_vl() -> torch.nn.Module:
    vision = {"hidden_size": 128, "intermediate_size": 96, "depth": 2, "deepstack_visual_indexes": [0]}
    with (
        patch.dict(comfy.text_encoders.qwen3vl.QWEN3VL_VISION, {"qwen3vl_8b": vision}),
        patch.dict(comfy.text_encoders.qwen3vl.QWEN3VL_VISION_COMMON, {"num_heads": 2, "num_position_embeddings": 64}),
    ):
        return _model(comfy.text_encoders.qwen3vl.Qwen3VL)


def _qwen35() -> torch.nn.Module:
    config = {
        "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 4, "vocab_size": 500,
        "num_attention_heads": 2, "num_key_value_heads": 1, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    }  # fmt: skip
    qwen = comfy.text_encoders.qwen35
    return qwen.Qwen35Transformer(qwen._make_config("qwen35_2b", config), "cpu", torch.float32, _OPERATIONS)


def _gemma3_12b() -> torch.nn.Module:
    with patch.object(llama.Gemma3_12B_Config, "vision_config", _VISION):
        return _model(llama.Gemma3_12B, num_hidden_layers=6)


def _gemma3_vision() -> torch.nn.Module:
    with (
        patch.object(llama.Gemma3_4B_Vision_Config, "vision_config", _VISION),
        patch.object(llama.Gemma3_4B_Vision_Config, "mm_tokens_per_image", 16),
    ):
        return _model(llama.Gemma3_4B_Vision, num_hidden_layers=1)


def _gemma4() -> torch.nn.Module:
    gemma = comfy.text_encoders.gemma4
    config = gemma.Gemma4Config(
        **(_SMALL | {"num_hidden_layers": 12}), hidden_size_per_layer_input=32, num_kv_shared_layers=6
    )
    model = gemma.Gemma4Transformer(config, "cpu", torch.float32, _OPERATIONS)
    for layer in model.layers:
        layer.layer_scalar.fill_(0.9)  # a file holds it
    return model


def _gpt_oss() -> torch.nn.Module:
    gpt = comfy.text_encoders.gpt_oss
    config = gpt.GptOss20BConfig(
        **(_SMALL | {"num_hidden_layers": 2, "head_dim": 64, "num_local_experts": 4, "num_experts_per_tok": 2})
    )
    mixed = comfy.ops.mixed_precision_ops({}, torch.float32)  # only these have experts, without weights until loaded
    operations = type("WithExperts", (_OPERATIONS,), {"MoEExperts": mixed.MoEExperts})
    model = gpt.GptOssModel(config, "cpu", torch.float32, operations)
    for part in model.modules():
        if isinstance(part, mixed.MoEExperts):
            part.weight = torch.nn.Parameter(torch.empty(part._orig_shape))
    return model


def _text(batch: int, size: int) -> Inputs:
    """As SDClipModel.forward calls it, with what it has looked up in the table of the vocabulary."""
    tokens = 9 + 4 * size
    mask = torch.ones(batch, tokens, dtype=torch.long)
    mask[:, :2] = 0
    return {"embeds": torch.randn(batch, tokens, 128), "mask": mask}


def _call(m: Any, t: Inputs, layer: int | str | None = -2, **more: Any) -> Any:
    return m(
        None, t["mask"], embeds=t["embeds"], num_tokens=None, intermediate_output=layer,
        final_layer_norm_intermediate=False, dtype=torch.float32, **more,
    )  # fmt: skip


def _call_all(m: Any, t: Inputs) -> Any:
    return _call(m, t, "all")


def _image(t: Inputs) -> list[dict[str, Any]]:
    return [{"type": "image", "index": 2, "size": 4, "extra": t["grid"]}]


def _call_with_image(m: Any, t: Inputs) -> Any:
    return _call(m, t, embeds_info=_image(t))


def _call_deepstack(m: Any, t: Inputs) -> Any:
    extra = {"grid": t["grid"], "deepstack": [t["deepstack"]]}
    return _call(m, t, embeds_info=[{"type": "image", "index": 2, "size": 4, "extra": extra}])


def _with_image(batch: int, size: int) -> Inputs:
    del batch  # one text at a time: the positions are those of one image
    grid = torch.tensor([[1, 4, 4]])
    return _text(1, size) | {"grid": grid, "deepstack": torch.randn(4, 128)}


def _patches(width: int) -> Any:
    """width: of a flattened patch of two frames."""

    def inputs(batch: int, size: int) -> Inputs:
        grid = torch.tensor([[1, 4 + 4 * size, 8]]).repeat(batch, 1)
        return {"pixels": torch.randn(int(grid.prod(1).sum()), width), "grid": grid}

    return inputs


def _see(m: Any, t: Inputs) -> Any:
    return m.visual(t["pixels"], t["grid"])


def _llm(name: str, kind: str, tolerance: float = EXACT, function: Any = _call, **config: Any) -> FamilyCase:
    return FamilyCase(name, lambda: _model(getattr(llama, kind), **config), function, _text, tolerance)


CASES = (
    _llm("Llama 3.1 8B", "Llama2"),
    _llm("Llama 3.1 8B all layers (HiDream)", "Llama2", function=_call_all),
    _llm("Mistral 3 Small 24B (Flux.2)", "Mistral3Small24B", function=_call_all),
    _llm("Ministral 3 3B (Ernie)", "Ministral3_3B"),
    _llm("Qwen2.5 3B (OmniGen2)", "Qwen25_3B"),
    _llm("Qwen3 0.6B", "Qwen3_06B"),
    _llm("Qwen3 4B", "Qwen3_4B"),
    _llm("Qwen3 8B", "Qwen3_8B"),
    _llm("Ovis 2.5 2B", "Ovis25_2B"),
    _llm("Qwen3 0.6B ACE 1.5", "Qwen3_06B_ACE15"),
    _llm("Qwen3 2B ACE 1.5 LM", "Qwen3_2B_ACE15_lm"),
    _llm("Qwen3 4B ACE 1.5 LM", "Qwen3_4B_ACE15_lm"),
    _llm("Gemma 2 2B", "Gemma2_2B", GELU),
    _llm("Gemma 3 4B", "Gemma3_4B", GELU, num_hidden_layers=6),
    FamilyCase("Gemma 3 12B text (LTX-2)", _gemma3_12b, _call_all, _text, GELU),
    FamilyCase("Gemma 3 4B vision tower", _gemma3_vision,
               lambda m, t: m.multi_modal_projector(m.vision_model(t["pixels"])[0]),
               lambda n, s: {"pixels": torch.randn(n, 3, 112, 112)}, GELU),
    FamilyCase("Gemma 4 text", _gemma4, lambda m, t: m(t["ids"], intermediate_output="all"),
               lambda n, s: {"ids": torch.randint(3, 400, (n, 9 + 4 * s))}, 2 * GELU),
    FamilyCase("Qwen2.5-VL 7B text", _qwen25_vl, _call, _text),
    FamilyCase("Qwen2.5-VL 7B text with an image", _qwen25_vl, _call_with_image, _with_image),
    FamilyCase("Qwen2.5-VL vision", _qwen25_vl, _see, _patches(1176), GELU),
    FamilyCase("Qwen3-VL text", _qwen3_vl, _call, _text),
    FamilyCase("Qwen3-VL text with deepstack", _qwen3_vl, _call_deepstack, _with_image),
    FamilyCase("Qwen3-VL vision", _qwen3_vl, _see, _patches(1536), GELU),
    FamilyCase("Qwen3.5 (gated delta net)", _qwen35, _call, _text),
    FamilyCase("GPT-OSS 20B (Lens, MoE)", _gpt_oss,
               lambda m, t: list(m(t["ids"], t["mask"], capture_layers=[0, 1]).values()),
               lambda n, s: {"ids": torch.randint(3, 400, (n, 9 + 4 * s)), "mask": _text(n, s)["mask"]}),
)  # fmt: skip
