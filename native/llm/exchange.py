"""An HTTP exchange with a language model server: interruptible, and bounded in time and bytes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import zlib
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp

from ..errors import Interrupted, IsInterrupted
from .model import ConnectionLost, LanguageModelError

Result = TypeVar("Result")
Request = Callable[[aiohttp.ClientSession], Coroutine[Any, Any, Result]]
MAX_BODY = 4 << 20  # bytes of a reply that is not a stream, decompressed
_CONNECT_TIMEOUT = 10.0  # seconds
_POLL = 0.05  # seconds between calls of `interrupted`, and between reports of progress
_MAX_ERROR_BODY, _MAX_REASON = 1 << 16, 400  # bytes of a refusal; characters that are quoted of it
_PIECE = 1 << 16  # bytes that are decompressed at once
_GZIP_OR_ZLIB = 47  # wbits: whichever header there is
_STATUS_MEANINGS = {
    401: "it does not accept this key",
    403: "this key has no permission for that",
    404: "it has no such address or model",
    429: "too many requests, or the quota is used up; wait a while and try again",
    500: "it had an internal error",
    502: "the proxy in front of it cannot reach it",
    503: "it is still loading, or overloaded; wait a while and try again",
}


class Malformed(Exception):
    """A reply that is no answer. The message continues a sentence that begins with the server."""


class Refused(LanguageModelError):
    """A reply with another status than 200. reason: the server's words, with the parameter that they are about."""

    def __init__(self, message: str, unquoted: str, status: int, reason: str) -> None:
        super().__init__(message, unquoted)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Endpoint:
    """A server and the model on it that answers."""

    url: str  # without /chat/completions
    model: str
    key: str = field(repr=False)  # "": none
    read_timeout: float  # seconds without any of the answer after which the server counts as hanging
    takes_grammar: bool = False  # a llama.cpp server that is known to take `grammar`


@dataclass
class Transfer:
    """The bytes that have come of a reply, and the time that it may still take."""

    idle: float  # seconds without progress; keep-alive comments and empty pieces are none
    total: float  # seconds for all of it
    received: int = 0  # bytes, as sent
    start: float = field(default_factory=time.monotonic)
    last: float = field(default_factory=time.monotonic)  # time of the last progress

    def progressed(self) -> None:
        """Notes that the answer has become longer."""
        self.last = time.monotonic()

    def elapsed(self) -> float:
        """Seconds since the exchange began."""
        return time.monotonic() - self.start

    def overdue(self) -> str | None:
        """The problem with a reply that takes too long, which continues a sentence about the server; None in time."""
        now = time.monotonic()
        if now - self.last > self.idle:
            if not self.received:
                return f"sent nothing for {self.idle:g} seconds. Raise timeout in the node, or choose a smaller model"
            return (
                f"sent {self.received:,} bytes in {now - self.start:.1f} seconds, but nothing of an answer for the "
                f"last {self.idle:g}. Raise timeout in the node, or look at what the server does"
            )
        if now - self.start > self.total:
            return (
                f"sent {self.received:,} bytes in {now - self.start:.1f} seconds and did not come to an end. Lower "
                "max_tokens, or choose a faster model"
            )
        return None


def run(endpoint: Endpoint, request: Request[Result], transfer: Transfer, poll: IsInterrupted) -> Result:
    """Runs a request in an event loop of its own thread (ComfyUI's has one running already), while polling for a stop.

    poll: true to interrupt. A request that is interrupted or overdue is not waited for: a name lookup cannot be ended.
    Raises LanguageModelError, Interrupted.
    """
    result: Future[Result] = Future()
    cancels: list[Callable[[], object]] = []
    stopped = threading.Event()

    async def cancellable() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        cancels.append(lambda: loop.call_soon_threadsafe(task.cancel))
        if stopped.is_set():
            raise asyncio.CancelledError
        return await _in_session(endpoint, request)

    def work() -> None:
        try:
            result.set_result(asyncio.run(cancellable()))
        except BaseException as error:
            result.set_exception(error)

    def stop() -> None:
        stopped.set()
        with suppress(RuntimeError):  # it has just ended
            for cancel in cancels:
                cancel()

    threading.Thread(target=work, name="language model", daemon=True).start()
    while not wait({result}, _POLL).done:
        if poll():
            stop()
            raise Interrupted("the language model was interrupted")
        if problem := transfer.overdue():
            stop()
            raise LanguageModelError(f"The language model server {endpoint.url} {problem}.")
    poll()  # reports the end of the answer
    return result.result()


async def _in_session(endpoint: Endpoint, request: Request[Result]) -> Result:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT)  # the rest of the time is Transfer's
    headers = {"Accept-Encoding": "identity"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, auto_decompress=False) as session:
        try:
            return await request(session)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, Malformed) as error:
            raise _explained(endpoint, error) from None  # its parts may hold the key


async def check(endpoint: Endpoint, reply: aiohttp.ClientResponse, transfer: Transfer) -> None:
    """Raises Refused for a reply with another status than 200."""
    if reply.status == 200:
        return
    body = bytearray()
    async for data in chunks(reply, transfer, MAX_BODY):
        body += data
        if len(body) >= _MAX_ERROR_BODY:
            break
    reason, parameter = _reason(bytes(body[:_MAX_ERROR_BODY]).decode(errors="replace"))
    reason = _without(endpoint.key, reason)
    meaning = _STATUS_MEANINGS.get(reply.status, "it refused the request")
    message = f"The language model server {endpoint.url} answered {reply.status}: {meaning}."
    said = f"{message} It says: {reason.rstrip('.')}." if reason else message
    raise Refused(said, message, reply.status, f"{parameter} {reason}")


async def chunks(reply: aiohttp.ClientResponse, transfer: Transfer, limit: int) -> AsyncIterator[bytes]:
    """The body of a reply, decompressed, as it comes. Raises Malformed for more than `limit` bytes."""
    encoding = reply.headers.get("Content-Encoding", "").strip().lower()
    packed = encoding in ("gzip", "x-gzip", "deflate")
    if not packed and encoding not in ("", "identity"):
        raise Malformed(f"sent its answer in the encoding {encoding[:20]!r}, which nobody asked for")
    decoder, size = zlib.decompressobj(_GZIP_OR_ZLIB), 0
    async for data in reply.content.iter_any():
        transfer.received += len(data)
        while data:
            try:
                piece = decoder.decompress(data, _PIECE) if packed else data
            except zlib.error as error:
                raise Malformed(f"sent a damaged {encoding} stream: {error}") from error
            data = decoder.unconsumed_tail if packed else b""
            size += len(piece)
            if size > limit:
                raise Malformed(
                    f"sent more than {limit:,} bytes in {transfer.elapsed():.1f} seconds, which is more than an answer "
                    "can have. Is url the address of a language model server?"
                )
            if piece:
                yield piece


async def body_of(reply: aiohttp.ClientResponse, transfer: Transfer) -> str:
    """The whole body of a reply that is not a stream. Raises Malformed for more than MAX_BODY bytes."""
    return b"".join([data async for data in chunks(reply, transfer, MAX_BODY)]).decode(errors="replace")


def _reason(body: str) -> tuple[str, str]:
    """The error message in a server's JSON, or the beginning of whatever it sent; and the parameter it is about."""
    parameter = ""
    try:
        fields = json.loads(body)
        error = fields.get("error", fields.get("message", fields.get("detail", body)))
        parameter = str(error.get("param") or "") if isinstance(error, dict) else ""
        body = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError, RecursionError):
        pass
    return " ".join(body.split())[:_MAX_REASON], parameter[:_MAX_REASON]


def _without(key: str, text: str) -> str:
    return text.replace(key, "***") if key else text


def _explained(endpoint: Endpoint, error: Exception) -> LanguageModelError:
    server = f"The language model server {endpoint.url}"
    match error:
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError() | asyncio.TimeoutError():
            return ConnectionLost(f"{server} cannot be reached. Start it, or correct the address in the node.")
        case Malformed():
            problem = _without(endpoint.key, " ".join(str(error).split()))[:_MAX_REASON]
            unquoted = f"{server} does not answer as an OpenAI-compatible one. Its address often ends in /v1."
            return LanguageModelError(f"{server} {problem}.", unquoted)
    return ConnectionLost(f"{server} broke the connection in the middle of its answer. Try again.")
