"""Tokenizers rebuilt from GGUF metadata give the tokens of those they were written from."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece

from native.weights import WeightFileError, read_header
from native.weights.tokenizers import tokenizer_of

LINES = [
    "a red square, a (green:1.2) dog and 1000 cats", "ein Würfel, größer als zuvor \u2013 ﬁne ½", "赤い四角と犬が二匹",
    "two  spaces\tand\nnew lines\n\n", "красный квадрат", "🙂 and 👩‍🚀", "",
    "  <start> <unused> </s>", "Å Å \uff41\uff42",
]  # fmt: skip


def processor(kind: str, **options: Any) -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES[:5] * 40), model_writer=model, vocab_size=330, model_type=kind, num_threads=1,
        hard_vocab_limit=False, user_defined_symbols=["<start>", "\u2581\u2581"], control_symbols=["<unused>"],
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, minloglevel=2, **options,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def written(path: Path, model: str, texts: list[str], kinds: list[int], **more: Any) -> Any:
    writer = gguf.GGUFWriter(path, "gemma2")
    writer.add_tokenizer_model(model)
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    for key, value in more.items():
        getattr(writer, f"add_{key}")(value)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_header(path)


def of_sentencepiece(path: Path, pieces: sentencepiece.SentencePieceProcessor, **more: Any) -> Any:
    """As llama.cpp's converter writes it: symbols defined by the user are control tokens, spaces in them are spaces."""
    numbers = range(len(pieces))
    ask: list[tuple[int, Callable[[int], bool]]] = [(2, pieces.is_unknown), (3, pieces.is_control), (6, pieces.is_byte)]
    kinds = [next((kind for kind, holds in ask if holds(i)), 1) for i in numbers]
    texts = [pieces.id_to_piece(i) for i in numbers]
    kinds[texts.index("<start>")], kinds[texts.index("\u2581\u2581")] = 3, 4
    texts[texts.index("\u2581\u2581")] = "  "
    scores = [pieces.get_score(i) for i in numbers]
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "unk_token_id": 3}
    return written(path, more.pop("model"), texts, kinds, token_scores=scores, **ends, **more)


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer: number, and bytes or an integer."""
    at = 0

    def varint() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = message[at]
            value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        size = {0: 0, 1: 8, 2: -1, 5: 4}[tag & 7]
        if not size:
            yield tag >> 3, varint()
            continue
        size = varint() if size < 0 else size
        yield tag >> 3, message[at : at + size]
        at += size


def rebuilt(header: Any) -> sentencepiece.SentencePieceProcessor:
    name, content = tokenizer_of(header) or ("", b"")
    assert name == "spiece_model"
    return sentencepiece.SentencePieceProcessor(model_proto=content)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_gives_the_same_tokens(kind: str, prefix: bool, tmp_path: Path) -> None:
    """Gemma's and Llama's kind merges pairs and falls back to bytes, that of T5 and UMT5 weighs pieces."""
    pieces = processor(
        kind, byte_fallback=kind == "bpe", normalization_rule_name="identity", add_dummy_prefix=prefix,
        remove_extra_whitespaces=kind == "unigram",
    )  # fmt: skip
    model = "t5" if kind == "unigram" else "llama"
    header = of_sentencepiece(
        tmp_path / "a.gguf", pieces, model=model, add_space_prefix=prefix, remove_extra_whitespaces=kind == "unigram"
    )
    found = rebuilt(header)
    for line in LINES:
        expected = pieces.encode(line.replace("<unused>", ""))  # which is text for those that no one may write
        assert found.encode(line.replace("<unused>", "")) == expected
    assert len({tuple(pieces.encode(line)) for line in LINES}) == len(LINES)
    assert found.piece_to_id("<start>") == pieces.piece_to_id("<start>")
    assert [found.pad_id(), found.eos_id(), found.bos_id(), found.unk_id()] == [0, 1, 2, 3]
    assert found.encode("a", add_bos=True, add_eos=True) == pieces.encode("a", add_bos=True, add_eos=True)


def test_sentencepiece_normalizes_the_same_way(tmp_path: Path) -> None:
    pieces = processor("unigram", normalization_rule_name="nmt_nfkc")
    normalizer = dict(fields(pieces.serialized_model_proto()))[3]
    charsmap = list(dict(fields(normalizer))[2])
    header = of_sentencepiece(
        tmp_path / "a.gguf", pieces, model="t5", add_space_prefix=True, remove_extra_whitespaces=True,
        precompiled_charsmap=charsmap,
    )  # fmt: skip
    found = rebuilt(header)
    assert [found.encode(line) for line in LINES[:7]] == [pieces.encode(line) for line in LINES[:7]]
    assert found.encode("ﬁne \uff41") == found.encode("fine a")


def test_tekken_is_in_mistrals_form(tmp_path: Path) -> None:
    texts = ["<unk>", "<s>", "[INST]", "a", "\u0120", "\u0120a", "\u00c3\u00a9", "\u010a"]
    header = written(tmp_path / "a.gguf", "gpt2", texts, [3, 3, 3, *[1] * 5], tokenizer_pre="tekken")
    name, content = tokenizer_of(header) or ("", b"")
    found = json.loads(content)
    assert name == "tekken_model"
    assert [base64.b64decode(each["token_bytes"]) for each in found["vocab"]] == [
        b"a",
        b" ",
        b" a",
        "é".encode(),
        b"\n",
    ]
    assert [each["rank"] for each in found["vocab"]] == [0, 1, 2, 3, 4]
    assert [(each["rank"], each["token_str"]) for each in found["special_tokens"]] == list(enumerate(texts[:3]))
    assert found["config"]["default_vocab_size"] == 8


def test_what_comfyui_brings_itself_is_left(tmp_path: Path) -> None:
    assert tokenizer_of(written(tmp_path / "a.gguf", "gpt2", ["a"] * 80, [1] * 80, tokenizer_pre="qwen2")) is None


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightFileError, match="has not all of its tokenizer"):
        tokenizer_of(written(tmp_path / "a.gguf", "llama", ["a", "b"], [1]))
    with pytest.raises(WeightFileError, match="of the kind gemma4"):
        tokenizer_of(written(tmp_path / "b.gguf", "gemma4", ["a", "b"], [1, 1]))
