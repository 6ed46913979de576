"""An answer of an OpenAI-compatible server as it arrives: server-sent events, or all at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp

_LONGEST_LINE = 1 << 20  # bytes of one event
_LONGEST_ANSWER = 1 << 20  # characters
_NOT_OPENAI = "Is it an OpenAI-compatible server? Its address often ends in /v1"


class Malformed(Exception):
    """What arrived is no answer; the message says what the server did, and goes on after its name."""


@dataclass
class Answer:
    """What was written so far; `pieces` counts the parts that it came in, about one for each token.

    finish: why it ended, as the server says it: "stop", "length", ...; None while it has not.
    """

    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    pieces: int = 0

    def add(self, message: dict[str, Any]) -> None:
        """The next part of it."""
        text, reasoning = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
        self.text += encodable(text) if isinstance(text, str) else ""
        self.reasoning += encodable(reasoning) if isinstance(reasoning, str) else ""
        self.pieces += 1
        if len(self.text) + len(self.reasoning) > _LONGEST_ANSWER:
            raise Malformed(f"wrote more than {_LONGEST_ANSWER:,} characters without an end. Lower max_tokens")


def encodable(text: str) -> str:
    """A text without halves of characters, which JSON can hold and no encoding can."""
    return text.encode(errors="replace").decode()


async def read_stream(reply: aiohttp.ClientResponse, answer: Answer) -> None:
    """Fill `answer` until it ends; raises Malformed for what is no answer, or only the beginning of one."""
    if reply.content_type != "text/event-stream":
        _take(answer, await reply.text(errors="replace"))
    else:
        async for event in _events(reply):
            if event == "[DONE]":
                break
            _take(answer, event)
    if answer.finish is None:
        raise Malformed(f"broke off in the middle of its answer, after {len(answer.text):,} characters. Try again")


async def _events(reply: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The data of each server-sent event."""
    waiting = b""
    async for data in reply.content.iter_any():
        *lines, waiting = (waiting + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].decode(errors="replace").strip()
        if len(waiting) > _LONGEST_LINE:
            raise Malformed(f"sent an event of more than {_LONGEST_LINE:,} bytes. {_NOT_OPENAI}")


def _take(answer: Answer, event: str) -> None:
    """Add one event, which is JSON."""
    try:
        content = json.loads(event)
        if "error" in content:
            raise Malformed(f"failed in the middle of its answer: {content['error']}")
        for choice in content["choices"][:1]:
            answer.add(choice.get("delta") or choice.get("message") or {})
            answer.finish = choice.get("finish_reason") or answer.finish
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Malformed(f"sent {event[:80]!r}, which is not part of an answer. {_NOT_OPENAI}") from error
