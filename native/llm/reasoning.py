"""A language model's thinking and its answer, told apart wherever a server puts them; and what is said of no answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from .model import LanguageModelError
from .stream import Answer

_TAGS = "think|thinking|thought|reasoning"
_REASONING = re.compile(rf"<({_TAGS})>(.*?)(</\1>|\Z)", re.DOTALL)
_REASONING_END = re.compile(rf"\A(.*?)</(?:{_TAGS})>", re.DOTALL)  # the chat template opened it
_QUOTED = 120  # characters
_MAX_TRIES = 1000  # beginnings of JSON objects that are no answer


def without_reasoning(text: str) -> str:
    """An answer without the reasoning that a model wrote before it."""
    return _divided(text)[0]


def answer_and_thinking(answer: Answer) -> tuple[str, str]:
    """The answer's text without thinking, and the thinking: in fields of its own, or between tags in the text.

    What follows the end of thinking in the thinking's own field is the answer where there is no other: a server that
    cannot tell when a model has ended thinking leaves it there.
    """
    text, inside = _divided(answer.text)
    thinking = answer.reasoning
    if not text and _REASONING_END.search(thinking):
        text, thinking = _divided(thinking)
    return text, "\n\n".join(part.strip() for part in (thinking, inside) if part.strip())


def objects_in(text: str, schema: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The JSON objects in a text that have all fields of a schema of strings."""
    decoder, start, tries = json.JSONDecoder(strict=False), text.find("{"), 0
    while start >= 0 and tries < _MAX_TRIES:
        try:
            found, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            found, end, tries = None, start + 1, tries + 1
        if isinstance(found, dict) and all(isinstance(found.get(name), str) for name in schema["properties"]):
            yield found
        start = text.find("{", end)


def no_answer(answer: Answer, max_tokens: int | None) -> LanguageModelError:
    """The error for an answer without text.

    max_tokens: that the request allowed; None where it did not say.
    """
    _, thinking = answer_and_thinking(answer)
    written = answer.tokens or max_tokens or answer.pieces
    if answer.finish == "length" and thinking:
        return LanguageModelError(
            f"The language model used all of its {written:,} tokens up for thinking ({len(thinking):,} characters) and "
            "did not come to an answer. Raise max_tokens in GGML Chat or the context in GGML Language Model, turn the "
            "model's thinking off where it is served, or choose a model that does not think."
        )
    if thinking:
        return LanguageModelError(
            f"The language model thought ({len(thinking):,} characters, {answer.pieces:,} pieces) and gave no answer. "
            f"It thought: {thinking[:_QUOTED]!r}. Try another seed, or turn its thinking off where it is served."
        )
    if answer.finish == "content_filter":
        return LanguageModelError(
            "The server withheld the language model's answer (finish_reason content_filter). Ask in other words, or "
            "choose another server."
        )
    return LanguageModelError(
        f"The language model answered with an empty text after {written:,} tokens (finish_reason {answer.finish}). Try "
        "another seed, or another model."
    )


def _divided(text: str) -> tuple[str, str]:
    """A text without the thinking in it, and the thinking."""
    thinking = [match[2] for match in _REASONING.finditer(text)]
    text = _REASONING.sub("", text)
    if opened := _REASONING_END.search(text):
        thinking.append(opened[1])
        text = text[opened.end() :]
    return text.strip(), "\n\n".join(each.strip() for each in thinking if each.strip())
