"""Reads the answer of an OpenAI-compatible server: server-sent events, or one JSON object."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp

_MAX_LINE = 1 << 20  # bytes of one event
_MAX_ANSWER = 1 << 20  # characters
_NOT_OPENAI = "Is it an OpenAI-compatible server? Its address often ends in /v1"


class Malformed(Exception):
    """A reply that is no answer. The message continues a sentence that begins with the server."""


@dataclass
class Answer:
    """The answer as far as it has come."""

    text: str = ""
    reasoning: str = ""
    finish: str | None = None  # finish_reason: "stop", "length", ...; None until it has ended
    pieces: int = 0  # received, about one for each token

    def add(self, message: dict[str, Any]) -> None:
        """Appends a message or a delta of one. Raises Malformed for an answer without an end."""
        text, reasoning = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
        self.text += encodable(text) if isinstance(text, str) else ""
        self.reasoning += encodable(reasoning) if isinstance(reasoning, str) else ""
        self.pieces += 1
        if len(self.text) + len(self.reasoning) > _MAX_ANSWER:
            raise Malformed(f"wrote more than {_MAX_ANSWER:,} characters without an end. Lower max_tokens")


def encodable(text: str) -> str:
    """A text with lone surrogates replaced, which JSON can hold and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


async def read_stream(reply: aiohttp.ClientResponse, answer: Answer) -> None:
    """Reads a reply into `answer` to its end. Raises Malformed for no answer, or one that breaks off."""
    if reply.content_type != "text/event-stream":
        _add_event(answer, await reply.text(errors="replace"))
    else:
        async for event in _events(reply):
            if event == "[DONE]":
                break
            _add_event(answer, event)
    if answer.finish is None:
        raise Malformed(f"broke off in the middle of its answer, after {len(answer.text):,} characters. Try again")


async def _events(reply: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The data of each server-sent event."""
    rest = b""
    async for data in reply.content.iter_any():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].decode(errors="replace").strip()
        if len(rest) > _MAX_LINE:
            raise Malformed(f"sent an event of more than {_MAX_LINE:,} bytes. {_NOT_OPENAI}")


def _add_event(answer: Answer, event: str) -> None:
    """Appends the JSON of an event to the answer. Raises Malformed."""
    try:
        content = json.loads(event)
        if "error" in content:
            raise Malformed(f"failed in the middle of its answer: {content['error']}")
        for choice in content["choices"][:1]:
            answer.add(choice.get("delta") or choice.get("message") or {})
            answer.finish = choice.get("finish_reason") or answer.finish
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Malformed(f"sent {event[:80]!r}, which is not part of an answer. {_NOT_OPENAI}") from error
