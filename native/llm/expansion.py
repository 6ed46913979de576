"""From a short idea to a prompt: the request, and what is made of the answer."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .chat import Endpoint
from .errors import LanguageModelError
from .stream import encodable
from .styles import LENGTHS, NEGATIVE_CHARACTERS, TARGETS, instructions

CountTokens = Callable[[str], int]
_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL)
_FOR_REASONING = 1024  # tokens
_UNOPENED = re.compile(r"\A.*?</(?:think|thinking|reasoning)>", re.DOTALL)  # where the template opened it
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


@dataclass(frozen=True)
class Idea:
    """What is to be expanded and how; style, target and length are keys of the tables in styles.py."""

    text: str
    style: str
    own_style: str
    target: str
    length: str
    must_keep: tuple[str, ...]


@dataclass(frozen=True)
class Expansion:
    """A prompt that says what must be kept and fits the target's text encoder, and what to avoid."""

    prompt: str
    negative: str


def words_to_keep(text: str) -> tuple[str, ...]:
    """The phrases of a must_keep input, which stand between commas or on lines of their own."""
    return tuple(dict.fromkeys(phrase.strip() for phrase in re.split(r"[,\n]", text) if phrase.strip()))


def request(idea: Idea, seed: int, temperature: float, endpoint: Endpoint) -> dict[str, Any]:
    """The chat request for an idea, which has the answer forced into the schema by the server.

    llama.cpp in our child takes the schema as a grammar: it feeds the chat template's own last words to grammars that
    it makes from JSON schemas itself, and then forces nothing (llama.cpp pull request 29066).
    """
    longest = LENGTHS[idea.length].characters
    asked: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": instructions(
                idea.style, idea.own_style, idea.target, idea.length, list(idea.must_keep)
            )},
            {"role": "user", "content": idea.text},
        ],
        "seed": seed,
        "temperature": temperature,
    }  # fmt: skip
    if endpoint.takes_grammar:
        return asked | {"grammar": grammar(longest), "cache_prompt": False, **without_thinking()}
    named = {"name": "expansion", "strict": True, "schema": schema(longest)}
    tokens = longest + NEGATIVE_CHARACTERS + _FOR_REASONING
    return asked | {"response_format": {"type": "json_schema", "json_schema": named}, "max_tokens": tokens}


def without_thinking() -> dict[str, Any]:
    """What llama.cpp's server is told so that models that think aloud by habit answer at once."""
    return {"chat_template_kwargs": {"enable_thinking": False}}


def schema(longest: int) -> dict[str, Any]:
    """The JSON schema of an answer whose prompt has at most so many characters."""
    lengths = {"prompt": {"minLength": 1, "maxLength": longest}, "negative": {"maxLength": NEGATIVE_CHARACTERS}}
    return {
        "type": "object",
        "properties": {name: {"type": "string", **limits} for name, limits in lengths.items()},
        "required": list(lengths),
        "additionalProperties": False,
    }


def grammar(longest: int) -> str:
    """`schema` in llama.cpp's GBNF, on one line and without characters that need an escape but for two."""
    return (
        rf'root ::= "{{\"prompt\": \"" character{{1,{longest}}} "\", \"negative\": \"" '
        rf'character{{0,{NEGATIVE_CHARACTERS}}} "\"}}"'
        "\n"
        r'character ::= [^"\\\x00-\x1F\x7F-\x9F] | "\\" ["\\]'
    )


def expansion(text: str, idea: Idea, count: CountTokens) -> Expansion:
    """What an answer says, with all that must be kept, within what the target's encoder sees by `count`.

    Raises LanguageModelError when the answer does not hold to the schema, or leaves no room.
    """
    said = parsed(text, schema(LENGTHS[idea.length].characters))
    limit = TARGETS[idea.target].tokens
    prompt = _fitted(_one_line(said["prompt"]), idea.must_keep, limit, count)
    negative = _fitted(_one_line(said["negative"]), (), limit, count)
    return Expansion(prompt, negative)


def passed_through(idea: Idea) -> Expansion:
    """The idea itself, with what must be kept, for when there is no answer."""
    return Expansion(_with_kept(idea.text, idea.must_keep), "")


def without_reasoning(text: str) -> str:
    """A text without what a model thought aloud before it."""
    text = _THOUGHT.sub("", text)
    return _UNOPENED.sub("", text).strip()


def parsed(text: str, wanted: dict[str, Any]) -> dict[str, str]:
    """The first JSON object of an answer, which may stand in prose. Raises LanguageModelError."""
    text = without_reasoning(text)
    start = text.find("{")
    try:
        found, _ = json.JSONDecoder(strict=False).raw_decode(text, start) if start >= 0 else (None, 0)
    except (ValueError, RecursionError):
        found = None
    fields = wanted["properties"]
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in fields):
        raise LanguageModelError(
            f"The language model's answer is not the JSON that was asked for: {text[:120]!r}. Try another seed or a "
            "lower temperature, a larger context where it was cut short, or a model that follows instructions."
        )
    if not found["prompt"].strip():
        raise LanguageModelError("The language model answered with an empty prompt. Try another seed.")
    return {name: encodable(found[name])[: limits["maxLength"]] for name, limits in fields.items()}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _with_kept(text: str, must_keep: tuple[str, ...]) -> str:
    """The text, after those of the phrases that it lacks."""
    lacking = [phrase for phrase in must_keep if not re.search(rf"(?i)(?<!\w){re.escape(phrase)}(?!\w)", text)]
    return ", ".join([*lacking, text] if text else lacking)


def _fitted(text: str, must_keep: tuple[str, ...], limit: int, count: CountTokens) -> str:
    """The longest beginning of a text that fits together with the phrases that it then lacks.

    Raises LanguageModelError where not even the phrases fit.
    """
    shorter = [_with_kept(beginning, must_keep) for beginning in _beginnings(text)]
    found = bisect_left(shorter, True, key=lambda each: count(each) <= limit)
    if found < len(shorter):
        return shorter[found]
    raise LanguageModelError(
        f"must_keep takes {count(_with_kept('', must_keep))} tokens, but the text encoder reads {limit}. Shorten it, "
        "or choose another target."
    )


def _beginnings(text: str) -> Iterator[str]:
    """A text, then ever less of it: cut at ends of sentences, phrases or words, and what is one word anywhere."""
    yield text
    words = text.split(" ")
    for length in range(len(words) - 1, 0, -1):
        yield _ended(" ".join(words[:length]))
    for length in range(len(words[0]) - 1, -1, -1):
        yield words[0][:length]


def _ended(text: str) -> str:
    """A text cut back to its last whole sentence, or its last comma, if that keeps at least half of it."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text)] or [text.rfind(",")]
    return text[: ends[-1]].rstrip(" ,") if ends[-1] * 2 >= len(text) else text.rstrip(" ,")
