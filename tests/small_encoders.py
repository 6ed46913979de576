"""Core's text encoders of its own structure with few channels, layers and words, and their hidden states."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import comfy.sd1_clip
import pytest
import sentencepiece
import torch

from tests.conftest import SIXTHS

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
SMALL = {"num_hidden_layers": 3, "vocab_size": 512, "intermediate_size": 256, **HEADS}
SMALL_T5 = {"vocab_size": 512, "d_model": 64, "d_kv": 16, "num_heads": 4}


def in_turn(metafunc: pytest.Metafunc, cases: Sequence[Any]) -> Sequence[Any]:
    """The sixth of the cases whose turn it is, or all of them."""
    option = metafunc.config.getoption
    return cases if option("--all") else cases[option("--sample") % SIXTHS :: SIXTHS]


@cache
def sentences(kind: str) -> sentencepiece.SentencePieceProcessor:
    """A small tokenizer of SentencePiece's, trained here."""
    model = io.BytesIO()
    words = ["a red square and a dog", "ein Würfel, größer als zuvor", "赤い四角と犬", "two  spaces\tand tabs 1.5"] * 40
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_writer=model, vocab_size=330, model_type=kind, byte_fallback=kind == "bpe",
        hard_vocab_limit=False, user_defined_symbols=["<start>"], pad_id=0, eos_id=1, bos_id=2, unk_id=3,
        remove_extra_whitespaces=False, add_dummy_prefix=kind == "unigram", num_threads=1, minloglevel=2,
        normalization_rule_name="identity",
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def spiece_tensor(kind: str) -> torch.Tensor:
    """The tokenizer as ComfyUI's files have it."""
    return torch.frombuffer(bytearray(sentences(kind).serialized_model_proto()), dtype=torch.uint8)


def shrink(monkeypatch: pytest.MonkeyPatch, sizes: Callable[[Any], Mapping[str, Any]]) -> None:
    """Give core's encoders other sizes; sizes: by the class of a transformer."""
    original = comfy.sd1_clip.SDClipModel.__init__
    signature = inspect.signature(original)

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        if given["textmodel_json_config"] is None and "model_name" not in given["model_options"]:
            given["model_options"] = {**given["model_options"], "model_name": "clip_l"}
        options = f"{given['model_options'].get('model_name', '')}_model_config"
        found = {**sizes(given["model_class"]), **given["model_options"].get(options, {})}
        given["model_options"] = {**given["model_options"], options: found}
        original(*bound.args, **bound.kwargs)

    monkeypatch.setattr(comfy.sd1_clip.SDClipModel, "__init__", init)


def small_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the vision towers of Qwen's models few channels and layers."""
    import comfy.text_encoders.qwen3vl as qwen3vl
    import comfy.text_encoders.qwen_vl as qwen_vl

    tower = partial(qwen_vl.Qwen2VLVisionTransformer, intermediate_size=96, num_heads=4, num_layers=2)
    monkeypatch.setattr(
        qwen_vl, "Qwen2VLVisionTransformer", lambda hidden_size, **others: tower(hidden_size=64, **others)
    )
    shape = {"hidden_size": 64, "intermediate_size": 96, "depth": 4, "deepstack_visual_indexes": [0, 2, 3]}
    for name in qwen3vl.QWEN3VL_VISION:
        monkeypatch.setitem(qwen3vl.QWEN3VL_VISION, name, shape)
    monkeypatch.setitem(qwen3vl.QWEN3VL_VISION_COMMON, "num_heads", 4)


def without_mistrals_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Core 0.30 does not build it with the transformers of today."""
    import comfy.text_encoders.flux as flux
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    stand_in = {"tokenizer_object": Tokenizer(BPE()), "legacy": False}
    monkeypatch.setattr(flux, "load_mistral_tokenizer", lambda _: stand_in)


def transformers_of(clip: Any) -> dict[str, Any]:
    """The transformers of a CLIP, by the names of the modules that they are in."""
    parts = clip.cond_stage_model.named_modules()
    return {
        name: part.transformer
        for name, part in parts
        if isinstance(getattr(part, "transformer", None), torch.nn.Module)
    }


def encoded(module: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Hidden states as comfy.sd1_clip.SDClipModel asks for them."""
    embeds = module.get_input_embeddings()(tokens, out_dtype=torch.float32)
    mask = torch.ones_like(tokens)
    return module(None, mask, embeds=embeds, num_tokens=[tokens.shape[1]], dtype=torch.float32, embeds_info=[])[0]
