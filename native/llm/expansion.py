"""A language model's answer to a prompt: reasoning removed, JSON read, must-keep phrases added, cut to the encoder."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .model import LanguageModelError
from .reasoning import answer_and_thinking, no_answer, objects_in, without_reasoning
from .requests import expansion_schema
from .stream import Answer, readable
from .styles import LENGTHS, TARGETS, Idea

CountTokens = Callable[[str], int]
_TAIL = 1 << 14  # characters of the thinking in which an answer is looked for
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


@dataclass(frozen=True)
class Expansion:
    """A prompt with all must-keep phrases that fits the target's text encoder, and a negative prompt."""

    prompt: str
    negative: str


def expansion_of(answer: Answer, idea: Idea, count: CountTokens, max_tokens: int | None) -> Expansion:
    """`expansion` of an answer, also where the server took all of it for thinking.

    A schema that a server forces from the first word on is fulfilled in the thinking, and nothing follows it.
    max_tokens: that the request allowed; None where it did not say.
    Raises LanguageModelError as `expansion`, and where thinking used up the tokens.
    """
    text, thinking = answer_and_thinking(answer)
    schema = expansion_schema(LENGTHS[idea.length].characters)
    if not any(objects_in(text, schema)):
        objects = list(objects_in(thinking[-_TAIL:], schema)) if answer.finish != "length" else []  # drafts, then
        if objects:
            text = json.dumps(objects[-1])
        elif not text:
            raise no_answer(answer, max_tokens)
    return expansion(text, idea, count)


def expansion(text: str, idea: Idea, count: CountTokens) -> Expansion:
    """The expansion in an answer, with the must-keep phrases, cut to the tokens that the target's encoder reads.

    count: tokens of a text, by the target's tokenizer.
    Raises LanguageModelError when the answer does not follow the schema, or the phrases alone are too long.
    """
    fields = parse_json(text, expansion_schema(LENGTHS[idea.length].characters))
    limit = TARGETS[idea.target].tokens
    prompt = _fitted(_one_line(fields["prompt"]), idea.must_keep, limit, count)
    negative = _fitted(_one_line(fields["negative"]), (), limit, count)
    return Expansion(prompt, negative)


def unexpanded(idea: Idea) -> Expansion:
    """The idea itself with the must-keep phrases, for when there is no usable answer."""
    return Expansion(_with_kept(idea.text, idea.must_keep), "")


def parse_json(text: str, schema: dict[str, Any]) -> dict[str, str]:
    """The fields of the first JSON object of an answer, which may be surrounded by prose, cut to their maxLength.

    schema: an object of strings. Raises LanguageModelError for an answer without such an object.
    """
    text = without_reasoning(text)
    answer = next(objects_in(text, schema), None)
    if answer is None:
        raise LanguageModelError(
            f"The language model's answer is not the JSON that was asked for: {text[:120]!r}. Try another seed or a "
            "lower temperature, a larger context where it was cut short, or a model that follows instructions."
        )
    if not answer["prompt"].strip():
        raise LanguageModelError("The language model answered with an empty prompt. Try another seed.")
    return {name: readable(answer[name])[: limits["maxLength"]] for name, limits in schema["properties"].items()}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _with_kept(text: str, must_keep: tuple[str, ...]) -> str:
    """The text, preceded by the phrases that it lacks."""
    lacking = [phrase for phrase in must_keep if not re.search(rf"(?i)(?<!\w){re.escape(phrase)}(?!\w)", text)]
    return ", ".join([*lacking, text] if text else lacking)


def _fitted(text: str, must_keep: tuple[str, ...], limit: int, count: CountTokens) -> str:
    """The longest beginning of a text that fits into `limit` tokens together with the phrases that it then lacks.

    Raises LanguageModelError where the phrases alone do not fit.
    """
    shorter = [_with_kept(beginning, must_keep) for beginning in _beginnings(text)]
    index = bisect_left(shorter, True, key=lambda each: count(each) <= limit)
    if index < len(shorter):
        return shorter[index]
    raise LanguageModelError(
        f"must_keep takes {count(_with_kept('', must_keep))} tokens, but the text encoder reads {limit}. Shorten it, "
        "or choose another target."
    )


def _beginnings(text: str) -> Iterator[str]:
    """Ever shorter beginnings of a text: cut at ends of sentences, phrases or words; a single word anywhere."""
    yield text
    words = text.split(" ")
    for length in range(len(words) - 1, 0, -1):
        yield _trimmed(" ".join(words[:length]))
    for length in range(len(words[0]) - 1, -1, -1):
        yield words[0][:length]


def _trimmed(text: str) -> str:
    """A text cut back to its last whole sentence, or its last comma, if that keeps at least half of it."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)] or [text.rfind(",")]
    return text[: ends[-1]].rstrip(" ,") if ends[-1] * 2 >= len(text) else text.rstrip(" ,")
