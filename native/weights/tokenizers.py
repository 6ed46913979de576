"""The tokenizer in the metadata of a GGUF file, in the forms that ComfyUI reads: SentencePiece's and Mistral's."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from struct import pack
from typing import Any

from .gguf import read_metadata
from .weight_file import WeightFile, WeightFileError

PREFIX = "tokenizer.ggml."
NORMAL, CONTROL, USER_DEFINED, BYTE = 1, 3, 4, 6  # llama.cpp's and SentencePiece's numbers
UNIGRAM, BPE = 1, 2
SPACE = "\u2581"  # as SentencePiece writes it
# What tekken.json of every Mistral model has as the words that are not merged with each other.
_SMALL, _LARGE = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
TEKKEN_WORDS = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_LARGE}*{_SMALL}+|[^\r\n\p{{L}}\p{{N}}]?{_LARGE}+{_SMALL}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ENDS = ("unknown", "bos", "eos", "padding")  # the tokens that stand for no text


def tokenizer_of(header: WeightFile) -> tuple[str, bytes] | None:
    """The name of the tensor in which ComfyUI has a tokenizer, and its content; None for one that it brings itself.

    Raises WeightFileError where the metadata have not all of it.
    """
    kind = header.metadata.get(PREFIX + "model")
    if kind == "gpt2" and header.metadata.get(PREFIX + "pre") == "tekken":
        return "tekken_model", tekken(_entries(header, "tokens", "token_type"), header.path)
    if kind not in (None, "gpt2", "llama", "t5"):
        raise WeightFileError(
            f"{header.path} has a tokenizer of the kind {kind}, which ComfyUI does not read from a GGUF file. Use the "
            "text encoder as safetensors, which holds it in ComfyUI's form."
        )
    if kind in ("llama", "t5"):
        entries = _entries(header, "tokens", "token_type", "scores", "precompiled_charsmap")
        return "spiece_model", sentencepiece(header.metadata | entries, header.path)
    return None


def _entries(header: WeightFile, *names: str) -> dict[str, Any]:
    return read_metadata(header.path, [PREFIX + name for name in names])


def _tokens(metadata: Mapping[str, Any], path: str) -> tuple[list[str], list[int]]:
    """The texts of all tokens, and their kinds."""
    texts, kinds = metadata.get(PREFIX + "tokens"), metadata.get(PREFIX + "token_type")
    if not texts or not kinds or len(texts) != len(kinds) or None in texts:
        raise WeightFileError(
            f"{path} has not all of its tokenizer in its metadata. Use a file that llama.cpp's converter has written, "
            "or the text encoder as safetensors."
        )
    return texts, kinds


def sentencepiece(metadata: Mapping[str, Any], path: str) -> bytes:
    """SentencePiece's model: sentencepiece_model.proto in its repository, as protocol buffers encode it."""
    texts, kinds = _tokens(metadata, path)
    scores = metadata.get(PREFIX + "scores") or [0.0] * len(texts)
    ends = {name: metadata.get(f"{PREFIX}{name}_token_id", -1) for name in ENDS}
    pieces = b"".join(
        _field(1, _text(1, text.replace(" ", SPACE)) + _float(2, score) + _number(3, _kind(kind, token, ends)))
        for token, (text, kind, score) in enumerate(zip(texts, kinds, scores, strict=True))
    )
    trainer = _number(3, UNIGRAM if metadata[PREFIX + "model"] == "t5" else BPE)
    trainer += _number(35, int(BYTE in kinds))
    trainer += b"".join(_number(40 + place, ends[name]) for place, name in enumerate(ENDS))
    normalizer = _text(1, "identity")
    if charsmap := metadata.get(PREFIX + "precompiled_charsmap"):
        normalizer = _text(1, "nmt_nfkc") + _field(2, bytes(byte & 255 for byte in charsmap))
    normalizer += _number(3, int(metadata.get(PREFIX + "add_space_prefix", True)))
    normalizer += _number(4, int(metadata.get(PREFIX + "remove_extra_whitespaces", False)))
    return pieces + _field(2, trainer) + _field(3, normalizer)


def _kind(kind: int, token: int, ends: Mapping[str, int]) -> int:
    """The kind of a token: llama.cpp calls those control tokens that a prompt may contain as text."""
    return USER_DEFINED if kind == CONTROL and token not in ends.values() else kind


def tekken(metadata: Mapping[str, Any], path: str) -> bytes:
    """Mistral's tekken.json: first its special tokens, then byte strings in the order in which they are merged."""
    texts, kinds = _tokens(metadata, path)
    special = next((number for number, kind in enumerate(kinds) if kind == NORMAL), len(kinds))
    to_byte = {letter: byte for byte, letter in _letters()}
    vocabulary = [
        {"rank": rank, "token_bytes": base64.b64encode(bytes(map(to_byte.__getitem__, text))).decode()}
        for rank, text in enumerate(texts[special:])
    ]
    specials = [{"rank": rank, "token_str": text, "is_control": True} for rank, text in enumerate(texts[:special])]
    config = {"pattern": TEKKEN_WORDS, "default_vocab_size": len(texts), "default_num_special_tokens": special}
    return json.dumps({"config": config, "vocab": vocabulary, "special_tokens": specials}).encode()


def _letters() -> Iterator[tuple[int, str]]:
    """Each byte and the letter that stands for it in GPT-2's vocabularies: itself where it can be printed."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    for byte in range(256):
        yield byte, chr(byte if byte in printable else next(others))


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _text(number: int, value: str) -> bytes:
    return _field(number, value.encode())


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + pack("<f", value)
