"""Reads the answer of an OpenAI-compatible server: server-sent events, or one JSON object."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from .exchange import Malformed, Transfer, body_of, chunks

_MAX_LINE = 1 << 20  # bytes of one event
_MAX_STREAM = 64 << 20  # bytes of all events; each token may come with hundreds
_MAX_ANSWER = 1 << 20  # characters
_AFTER_END = 1.0  # seconds for what follows finish_reason: counts, and [DONE] where a server sends it
_NOT_OPENAI = "Is it an OpenAI-compatible server? Its address often ends in /v1"
_THINKING_FIELDS = ("reasoning_content", "reasoning", "thinking")  # of llama.cpp and DeepSeek, vLLM and Ollama, others
_STREAM_BEGINS = re.compile(r"\s*(data|event|id|retry)?:")
_LINE_END = re.compile("\r\n?|[\v\f\x85\u2028\u2029]")
# Controls and what is not seen, such as overrides of the direction of text and tags; joiners of letters and emoji stay.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ufffe\uffff\U000e0000-\U000e007f]"
)


@dataclass
class Answer:
    """The answer as far as it has come."""

    text: str = ""
    reasoning: str = ""
    finish: str | None = None  # finish_reason: "stop", "length", ...; None until it has ended
    pieces: int = 0  # received, about one for each token
    tokens: int | None = None  # written, thinking included, where the server counts them
    notes: list[str] = field(default_factory=list)  # for the user: what the server did not take of the request

    def add(self, message: dict[str, Any]) -> None:
        """Appends a message or a delta of one. Raises Malformed for an answer without an end."""
        text, reasoning = _parts(message.get("content") or message.get("refusal"))
        reasoning += next((_parts(message[name])[0] for name in _THINKING_FIELDS if message.get(name)), "")
        self.text += readable(text)
        self.reasoning += readable(reasoning)
        self.pieces += bool(text or reasoning)
        if len(self.text) + len(self.reasoning) > _MAX_ANSWER:
            raise Malformed(f"wrote more than {_MAX_ANSWER:,} characters without an end. Lower max_tokens")


def readable(text: str) -> str:
    """A text without control characters and others that are not seen, and with lone surrogates replaced.

    Line ends become "\\n"; tabs stay. JSON can hold what UTF-8 cannot, and a prompt what its reader does not see.
    """
    return _INVISIBLE.sub("", _LINE_END.sub("\n", text)).encode(errors="replace").decode()


async def read_stream(reply: aiohttp.ClientResponse, answer: Answer, transfer: Transfer) -> None:
    """Reads a reply into `answer` to its end. Raises Malformed for no answer, or one that breaks off."""
    if reply.content_type == "text/event-stream":
        await _read_events(_events(chunks(reply, transfer, _MAX_STREAM)), answer, transfer)
        return
    body = await body_of(reply, transfer)
    if _STREAM_BEGINS.match(body):  # under a wrong content type
        await _read_events(_events(_whole(body)), answer, transfer)
    elif _add_event(answer, body):
        answer.finish = answer.finish or "stop"
    else:
        raise _unlike(body)


async def _read_events(events: AsyncIterator[str], answer: Answer, transfer: Transfer) -> None:
    seen, unlike, patience = False, "", _AFTER_END
    while patience > 0:
        begin = time.monotonic()
        coming = events.__anext__()
        try:
            event = await (asyncio.wait_for(coming, patience) if answer.finish else coming)
        except (StopAsyncIteration, asyncio.TimeoutError):
            break
        if answer.finish:
            patience -= time.monotonic() - begin
        if event == "[DONE]":
            answer.finish = answer.finish or ("stop" if seen else None)  # some servers say no more than that
            break
        pieces, ended = answer.pieces, answer.finish is not None
        if _add_event(answer, event):
            seen = True
        else:
            unlike = unlike or event
        if answer.pieces > pieces or (answer.finish is not None and not ended):
            transfer.progressed()
    if not seen:
        raise _unlike(unlike)
    if answer.finish is None:
        raise Malformed(f"broke off in the middle of its answer, after {len(answer.text):,} characters. Try again")


async def _events(data: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """The data of each server-sent event, or each line of JSON where a server leaves out `data:`."""
    rest = b""
    async for piece in data:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if event := _data_of(line):
                yield event
        if len(rest) > _MAX_LINE:
            raise Malformed(f"sent an event of more than {_MAX_LINE:,} bytes. {_NOT_OPENAI}")
    if event := _data_of(rest):
        yield event


def _data_of(line: bytes) -> str:
    """The data of a line of a stream; "" for a comment, another field or an empty line."""
    if not line.startswith((b"data:", b"{")):
        return ""
    return line.removeprefix(b"data:").decode(errors="replace").strip()


async def _whole(body: str) -> AsyncIterator[bytes]:
    yield body.encode()


def _unlike(event: str) -> Malformed:
    return Malformed(f"sent {event[:80]!r}, which is not part of an answer. {_NOT_OPENAI}")


def _add_event(answer: Answer, event: str) -> bool:
    """Appends the JSON of an event to the answer; false for one that has none of it, such as counts.

    Raises Malformed for an error of the server, and for what is no JSON of an answer.
    """
    try:
        content = json.loads(event)
        if content is None:
            return False
        if content.get("error"):
            raise Malformed(f"failed in the middle of its answer: {content['error']}")
        counted = (content.get("usage") or {}).get("completion_tokens")
        tokens = counted or (content.get("timings") or {}).get("predicted_n")  # of llama.cpp
        answer.tokens = tokens if type(tokens) is int else answer.tokens
        choices = [choice for choice in content.get("choices") or () if choice is not None]
        for choice in choices[:1]:
            _add_choice(answer, choice)
        return isinstance(content.get("choices"), list)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unlike(event) from error


def _add_choice(answer: Answer, choice: dict[str, Any]) -> None:
    """Appends what a choice adds; a whole message at the end of a stream repeats what has come."""
    if choice.get("delta") is not None:
        answer.add(choice["delta"])
    elif not answer.pieces:
        answer.add(choice.get("message") or {"content": choice.get("text")})
    finish = choice.get("finish_reason")
    answer.finish = finish if isinstance(finish, str) and finish else answer.finish


def _parts(content: Any) -> tuple[str, str]:
    """Text and thinking of a message's content: a text, or a list of parts of several types."""
    if isinstance(content, str):
        return content, ""
    texts = {"text": "", "thinking": ""}
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in texts:
            texts[kind] += _parts(part.get(kind))[0]
    return texts["text"], texts["thinking"]
