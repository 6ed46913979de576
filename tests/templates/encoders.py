"""Text encoders: core's own classes, of their real sizes or with few layers, channels and words, in names of files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from native.weights import tokenizers
from tests import pack

pack.comfy()

import comfy.clip_model  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.text_encoders.gemma4 as gemma4  # noqa: E402
import comfy.text_encoders.gpt_oss as gpt_oss  # noqa: E402
import comfy.text_encoders.jina_clip_2 as jina  # noqa: E402
import comfy.text_encoders.llama as llama  # noqa: E402
import comfy.text_encoders.minimax as minimax  # noqa: E402
import comfy.text_encoders.qwen3vl as qwen3vl  # noqa: E402
import comfy.text_encoders.qwen35 as qwen35  # noqa: E402
import comfy.text_encoders.sa3 as sa3  # noqa: E402
import comfy.text_encoders.t5 as t5  # noqa: E402

from ..small_encoders import sentences  # noqa: E402

Shapes = dict[str, tuple[int, ...]]
_COMFY = Path(comfy.clip_model.__file__).parent
_META: dict[str, Any] = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}


@dataclass(frozen=True)
class Encoder:
    """core: makes the module of a configuration. file: of the configuration, in core; more: what it says besides.

    tokenizer: that a file has: "unigram", "bpe", "tekken" or "json". renamed: beginnings of names in the module, and
    what files have for them.
    """

    core: Callable[..., torch.nn.Module]
    file: str = ""
    tokenizer: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)

    def shapes(self) -> Shapes:
        """Names and shapes of a file of the real size."""
        module = self.core(self.config(), **_META)
        return {self._in_file(name): tuple(tensor.shape) for name, tensor in module.state_dict().items()}

    def config(self) -> dict[str, Any]:
        """The configuration of the real one."""
        said = json.loads((_COMFY / self.file).read_text(encoding="utf-8")) if self.file else {}
        return {**said, **self.more}

    def contents(self) -> dict[str, bytes]:
        """Tensors of bytes in the file: its tokenizer."""
        return dict([_TOKENIZERS[self.tokenizer]()]) if self.tokenizer else {}

    def _in_file(self, name: str) -> str:
        for old, new in self.renamed.items():
            if name.startswith(old):
                return new + name[len(old) :]
        return name


def _sentencepiece(kind: str) -> Callable[[], tuple[str, bytes]]:
    return lambda: ("spiece_model", sentences(kind).serialized_model_proto())


@cache
def _tekken() -> tuple[str, bytes]:
    """The letters, and what the templates of core's tokenizers name."""
    words = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "<pad>"]
    letters = [letter for _, letter in tokenizers._letters()]
    kinds = [tokenizers.CONTROL] * len(words) + [tokenizers.NORMAL] * len(letters)
    metadata = {f"{tokenizers.PREFIX}tokens": [*words, *letters], f"{tokenizers.PREFIX}token_type": kinds}
    return "tekken_model", tokenizers.tekken(metadata, "tekken")


@cache
def tokenizer_json() -> tuple[str, bytes]:
    """A byte-level tokenizer without merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|start|>", "<|end|>", "<|message|>", "<|turn>", "<turn|>"]
    words = {word: number for number, word in enumerate([*special, *letters])}
    made = Tokenizer(models.BPE(vocab=words, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return "tokenizer_json", made.to_str().encode()


_TOKENIZERS: Mapping[str, Callable[[], tuple[str, bytes]]] = {
    "unigram": _sentencepiece("unigram"), "bpe": _sentencepiece("bpe"), "tekken": _tekken, "json": tokenizer_json,
}  # fmt: skip
_OF_QWEN35 = {"model.": "model.language_model.", "visual.": "model.visual."}
_OF_QWEN3VL = {"visual.": "model.visual."}


def _t5(file: str, tokenizer: str = "") -> Encoder:
    return Encoder(t5.T5, f"text_encoders/{file}.json", tokenizer)


def _qwen35(size: str) -> Encoder:
    kind = type("Qwen35", (qwen35.Qwen35,), {"model_type": size})
    return Encoder(lambda config, **factory: kind(config, **factory), renamed=_OF_QWEN35)


def _gpt_oss(config: dict[str, Any], operations: Any, **factory: Any) -> torch.nn.Module:
    operations = pack.part("nodes.components.component").MetaOperations  # core's experts get theirs from a file
    return gpt_oss.GptOssModel(gpt_oss.GptOss20BConfig(**config), ops=operations, **factory)


ENCODERS: Mapping[str, Encoder] = {
    "CLIP-L": Encoder(comfy.clip_model.CLIPTextModel, "sd1_clip_config.json"),
    "CLIP-G": Encoder(comfy.clip_model.CLIPTextModel, "clip_config_bigg.json"),
    "CLIP-H": Encoder(comfy.clip_model.CLIPTextModel, "text_encoders/sd2_clip_config.json"),
    "T5-XXL": _t5("t5_config_xxl"),
    "T5-base": _t5("t5_config_base"),
    "UMT5-XXL": _t5("umt5_config_xxl", "unigram"),
    "UMT5-base": _t5("umt5_config_base", "unigram"),
    "ByT5": _t5("byt5_config_small_glyph"),
    "T5Gemma": Encoder(sa3.T5GemmaModel, tokenizer="bpe"),
    "Llama 3.1 8B": Encoder(llama.Llama2, more={"vocab_size": 128256}),
    "LLaVA Llama 3 8B": Encoder(llama.Llama2),
    "Qwen2.5-VL 7B": Encoder(llama.Qwen25_7BVLI),
    "Qwen2.5-VL 3B": Encoder(llama.Qwen25_3B),
    "Qwen3 0.6B": Encoder(llama.Qwen3_06B),
    "Qwen3 0.6B of ACE-Step": Encoder(llama.Qwen3_06B_ACE15),
    "Qwen3 2B of ACE-Step": Encoder(llama.Qwen3_2B_ACE15_lm),
    "Qwen3 4B of ACE-Step": Encoder(llama.Qwen3_4B_ACE15_lm),
    "Qwen3 4B": Encoder(llama.Qwen3_4B),
    "Qwen3 8B": Encoder(llama.Qwen3_8B),
    "Ovis 2.5 2B": Encoder(llama.Ovis25_2B),
    "Qwen3-VL 4B": Encoder(qwen3vl._make_qwen3vl_model("qwen3vl_4b"), renamed=_OF_QWEN3VL),
    "Qwen3-VL 8B": Encoder(qwen3vl._make_qwen3vl_model("qwen3vl_8b"), renamed=_OF_QWEN3VL),
    "Qwen3-VL 32B of MiniMax": Encoder(minimax.MiniMaxQwen3VL),
    "Qwen3.5 2B": _qwen35("qwen35_2b"),
    "Qwen3.5 4B": _qwen35("qwen35_4b"),
    "Gemma 2 2B": Encoder(llama.Gemma2_2B, tokenizer="bpe"),
    "Gemma 3 4B": Encoder(llama.Gemma3_4B, tokenizer="bpe"),
    "Gemma 3 12B": Encoder(llama.Gemma3_12B, tokenizer="bpe"),
    "Gemma 4 E4B": Encoder(gemma4.Gemma4_E4B, tokenizer="json"),
    "Jina CLIP 2": Encoder(jina.XLMRobertaModel, tokenizer="bpe"),
    "Ministral 3 3B": Encoder(llama.Ministral3_3B, tokenizer="tekken"),
    "Mistral Small 24B": Encoder(llama.Mistral3Small24B, tokenizer="tekken", more={"num_hidden_layers": 30}),
    "GPT-OSS 20B": Encoder(_gpt_oss, tokenizer="json"),
}
