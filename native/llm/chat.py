"""Asking an OpenAI-compatible server: one answer as it is written, or why there is none.

One client for llama.cpp's server in our child and for any other.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp

from ..errors import Interrupted, IsInterrupted
from .errors import ConnectionLost, LanguageModelError
from .stream import Answer, Malformed, read_stream

Result = TypeVar("Result")
Show = Callable[[Answer], None]
Work = Callable[[aiohttp.ClientSession], Coroutine[Any, Any, Result]]
_CONNECT = 10.0  # seconds
_POLL = 0.05  # seconds between looks at `interrupted` and between two shows of an answer
_LONGEST_BODY, _LONGEST_ERROR = 1 << 16, 400  # bytes of a refusal; characters of the server's own words
_MEANINGS = {
    401: "it does not take this key",
    403: "this key may not do that",
    404: "it has no such address or model",
    429: "too many requests, or the quota is used up; wait a while and try again",
    500: "it failed inside",
    502: "what stands before it cannot reach it",
    503: "it is still loading, or overloaded; wait a while and try again",
}


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers: url ends before /chat/completions; the key is in no text that is made of this.

    patience: seconds without a word after which the server counts as hanging.
    takes_grammar: whether it is a llama.cpp server that is known to take `grammar`.
    """

    url: str
    model: str
    key: str = field(repr=False)
    patience: float
    takes_grammar: bool = False


def ask(endpoint: Endpoint, body: dict[str, Any], show: Show, interrupted: IsInterrupted) -> Answer:
    """The answer to a chat request, shown as it grows.

    Raises LanguageModelError, also for an answer that ends in the middle, and Interrupted.
    """
    answer = Answer()

    async def work(session: aiohttp.ClientSession) -> Answer:
        posted = {**body, "model": endpoint.model, "stream": True}
        async with session.post(f"{endpoint.url}/chat/completions", json=posted, allow_redirects=False) as reply:
            await _check(endpoint, reply)
            await read_stream(reply, answer)
        return answer

    shown = 0

    def look() -> bool:
        nonlocal shown
        if answer.pieces > shown:
            shown = answer.pieces
            show(answer)
        return interrupted()

    return _run(endpoint, work, look)


def list_models(endpoint: Endpoint, interrupted: IsInterrupted) -> list[str]:
    """The names of the models that a server has. Raises LanguageModelError, Interrupted."""

    async def work(session: aiohttp.ClientSession) -> list[str]:
        async with session.get(f"{endpoint.url}/models", allow_redirects=False) as reply:
            await _check(endpoint, reply)
            body = await reply.text(errors="replace")
        try:
            return [str(model["id"]) for model in json.loads(body)["data"]]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Malformed(f"sent {body[:80]!r}, which is no list of models. Its address often ends in /v1") from error

    return _run(endpoint, work, interrupted)


def _run(endpoint: Endpoint, work: Work[Result], look: IsInterrupted) -> Result:
    """Do `work` in a thread of its own, as ComfyUI's has an event loop running; `look` is asked whether to stop.

    One that is told to stop is not waited for: a look-up of a name cannot be interrupted.
    """
    found: Future[Result] = Future()
    stops: list[Callable[[], object]] = []
    stopped = threading.Event()

    async def watched() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        stops.append(lambda: loop.call_soon_threadsafe(task.cancel))
        if stopped.is_set():
            raise asyncio.CancelledError
        return await _in_session(endpoint, work)

    def run() -> None:
        try:
            found.set_result(asyncio.run(watched()))
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, name="language model", daemon=True).start()
    while not wait({found}, _POLL).done:
        if look():
            stopped.set()
            with suppress(RuntimeError):  # it has just ended
                for stop in stops:
                    stop()
            raise Interrupted("the language model was interrupted")
    look()  # the last words
    return found.result()


async def _in_session(endpoint: Endpoint, work: Work[Result]) -> Result:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=endpoint.patience)
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        try:
            return await work(session)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, Malformed) as error:
            raise _explained(endpoint, error) from None  # its parts may hold the key


async def _check(endpoint: Endpoint, reply: aiohttp.ClientResponse) -> None:
    if reply.status != 200:
        said = _without(endpoint.key, _reason((await reply.content.read(_LONGEST_BODY)).decode(errors="replace")))
        meaning = _MEANINGS.get(reply.status, "it refused the request")
        told = f"The language model server {endpoint.url} answered {reply.status}: {meaning}."
        raise LanguageModelError(f"{told} It says: {said.rstrip('.')}." if said else told)


def _reason(body: str) -> str:
    """The message in a server's JSON, or the beginning of whatever it sent."""
    try:
        found = json.loads(body)
        error = found.get("error", found.get("message", found.get("detail", body)))
        body = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError, RecursionError):
        pass
    return " ".join(body.split())[:_LONGEST_ERROR]


def _without(key: str, text: str) -> str:
    return text.replace(key, "***") if key else text


def _explained(endpoint: Endpoint, error: Exception) -> LanguageModelError:
    server = f"The language model server {endpoint.url}"
    match error:
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return ConnectionLost(f"{server} cannot be reached. Start it, or correct the address in the node.")
        case asyncio.TimeoutError():
            return LanguageModelError(
                f"{server} said nothing for {endpoint.patience:g} seconds. Raise timeout in the node, or choose a "
                "smaller model."
            )
        case Malformed():
            said = _without(endpoint.key, " ".join(str(error).split()))[:_LONGEST_ERROR]
            return LanguageModelError(f"{server} {said}.")
    return ConnectionLost(f"{server} broke the connection in the middle of its answer. Try again.")
