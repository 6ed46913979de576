"""Text encoders that are not language models: CLIP, T5 in all forms, BERT, T5Gemma, Jina CLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.clip_model
import comfy.text_encoders.bert
import comfy.text_encoders.jina_clip_2
import comfy.text_encoders.sa3
import comfy.text_encoders.t5
import torch

from ..model_cases import Inputs
from .case import EXACT, FACTORY, GELU, FamilyCase

_COMFY = Path(comfy.clip_model.__file__).parent
_ARGUMENTS = (torch.float32, "cpu", FACTORY["operations"])


def _config(file: str) -> dict[str, Any]:
    return json.loads((_COMFY / file).read_text())


def _clip(file: str, **config: Any) -> torch.nn.Module:
    small = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 3}
    return comfy.clip_model.CLIPTextModel(_config(file) | small | {"vocab_size": 500} | config, *_ARGUMENTS)


def _t5(file: str) -> torch.nn.Module:
    """Heads and their channels keep no relation to the width, as in T5 XXL."""
    small = {"d_ff": 256, "d_kv": 32, "d_model": 96, "num_heads": 4, "num_layers": 2, "vocab_size": 500}
    return comfy.text_encoders.t5.T5(_config(file) | small, *_ARGUMENTS)


def _bert() -> torch.nn.Module:
    small = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = _config("text_encoders/hydit_clip.json") | small | {"vocab_size": 500, "max_position_embeddings": 32}
    return comfy.text_encoders.bert.BertModel(config, *_ARGUMENTS)


def _t5_gemma() -> torch.nn.Module:
    """The class takes no width: its configuration object does."""
    model = comfy.text_encoders.sa3.T5GemmaModel.__new__(comfy.text_encoders.sa3.T5GemmaModel)
    torch.nn.Module.__init__(model)
    config = comfy.text_encoders.sa3.T5GemmaEncoderConfig()
    config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers = 500, 128, 256, 2
    config.num_attention_heads = config.num_key_value_heads = 2
    config.layer_types = ["sliding_attention", "full_attention"]
    model.num_layers, model.dtype = 2, torch.float32
    model.model = comfy.text_encoders.sa3.T5GemmaBody(config, *reversed(_ARGUMENTS[:2]), _ARGUMENTS[2])
    return model


def _jina() -> torch.nn.Module:
    config = {
        "vocab_size": 500, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 256,
    }  # fmt: skip
    return comfy.text_encoders.jina_clip_2.XLMRobertaModel(config, *_ARGUMENTS)


def _ids(batch: int, size: int, tokens: tuple[int, int] = (7, 12)) -> Inputs:
    return {"ids": torch.randint(3, 400, (batch, tokens[size]))}


def _clip_ids(batch: int, size: int) -> Inputs:
    """Always of the table's length; the token with the highest id ends the text."""
    ids = torch.randint(3, 400, (batch, 77))
    ids[:, 9 + size] = 499
    return {"ids": ids}


def _masked(batch: int, size: int) -> Inputs:
    inputs = _ids(batch, size)
    mask = torch.ones_like(inputs["ids"])
    mask[:, 5:] = 0
    return inputs | {"mask": mask}


def _call(m: Any, t: Inputs) -> Any:
    return m(t["ids"], t.get("mask"), intermediate_output=-2, dtype=torch.float32)


def _call_pooled_by_length(m: Any, t: Inputs) -> Any:
    return m(t["ids"], None, intermediate_output=-2, num_tokens=[10] * t["ids"].shape[0])


def _t5_case(name: str, file: str) -> FamilyCase:
    file = f"text_encoders/{file}.json"
    tolerance = GELU if "gelu" in _config(file)["dense_act_fn"] else EXACT
    return FamilyCase(name, lambda: _t5(file), _call, _masked, tolerance)


CASES = (
    FamilyCase("CLIP-L (pooled by token ids)", lambda: _clip("sd1_clip_config.json", eos_token_id=499), _call,
               _clip_ids),
    FamilyCase("CLIP-L (pooled by length)", lambda: _clip("sd1_clip_config.json"), _call_pooled_by_length, _clip_ids),
    FamilyCase("CLIP-H (SD2)", lambda: _clip("text_encoders/sd2_clip_config.json", eos_token_id=499), _call,
               _clip_ids),
    FamilyCase("CLIP-G", lambda: _clip("clip_config_bigg.json", eos_token_id=499), _call, _clip_ids),
    FamilyCase("long CLIP-L (248 positions)", lambda: _clip(
        "sd1_clip_config.json", max_position_embeddings=248, eos_token_id=499), _call,
        lambda n, s: {"ids": torch.randint(3, 499, (n, 248))}),
    _t5_case("T5 XXL", "t5_config_xxl"),
    _t5_case("T5 base", "t5_config_base"),
    _t5_case("T5 v1.0 XXL (old, relu)", "t5_old_config_xxl"),
    _t5_case("UMT5 XXL", "umt5_config_xxl"),
    _t5_case("UMT5 base", "umt5_config_base"),
    _t5_case("Pile T5 XL (AuraFlow)", "t5_pile_config_xl"),
    _t5_case("mT5 XL (HunyuanDiT)", "mt5_config_xl"),
    _t5_case("ByT5 small glyph", "byt5_config_small_glyph"),
    FamilyCase("BERT (HunyuanDiT)", _bert, _call, _masked),
    FamilyCase("T5Gemma (Stable Audio 3)", _t5_gemma, lambda m, t: m(t["ids"], t["mask"]), _masked, GELU),
    FamilyCase("Jina CLIP 2 (NewBie)", _jina, _call, _masked),
)  # fmt: skip
