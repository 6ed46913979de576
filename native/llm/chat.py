"""The client of OpenAI-compatible servers: chat completions, streamed, and the list of models.

It serves llama.cpp's server in our child and any other.
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
from .model import ConnectionLost, LanguageModelError, RemoteServer
from .stream import Answer, Malformed, encodable, read_stream

Result = TypeVar("Result")
OnProgress = Callable[[Answer], None]
Request = Callable[[aiohttp.ClientSession], Coroutine[Any, Any, Result]]
_CONNECT_TIMEOUT = 10.0  # seconds
_POLL = 0.05  # seconds between calls of `interrupted`, and between reports of progress
_MAX_ERROR_BODY, _MAX_REASON = 1 << 16, 400  # bytes of a refusal; characters that are quoted of it
_MAX_MODELS, _MAX_NAME = 1000, 400  # of a list; characters
_STATUS_MEANINGS = {
    401: "it does not accept this key",
    403: "this key has no permission for that",
    404: "it has no such address or model",
    429: "too many requests, or the quota is used up; wait a while and try again",
    500: "it had an internal error",
    502: "the proxy in front of it cannot reach it",
    503: "it is still loading, or overloaded; wait a while and try again",
}


@dataclass(frozen=True)
class Endpoint:
    """A server and the model on it that answers."""

    url: str  # without /chat/completions
    model: str
    key: str = field(repr=False)  # "": none
    read_timeout: float  # seconds without data after which the server counts as hanging
    takes_grammar: bool = False  # a llama.cpp server that is known to take `grammar`


def complete(endpoint: Endpoint, body: dict[str, Any], on_progress: OnProgress, interrupted: IsInterrupted) -> Answer:
    """Sends a chat request and returns the answer; `on_progress` gets what has come so far.

    Raises LanguageModelError, also for an answer that breaks off, and Interrupted.
    """
    answer = Answer()

    async def post(session: aiohttp.ClientSession) -> Answer:
        payload = {**body, "model": endpoint.model, "stream": True}
        async with session.post(f"{endpoint.url}/chat/completions", json=payload, allow_redirects=False) as reply:
            await _check(endpoint, reply)
            await read_stream(reply, answer)
        return answer

    reported = 0

    def report() -> bool:
        nonlocal reported
        if answer.pieces > reported:
            reported = answer.pieces
            on_progress(answer)
        return interrupted()

    return _run(endpoint, post, report)


def list_models(server: RemoteServer, interrupted: IsInterrupted) -> list[str]:
    """The names of the models that a server lists. Raises LanguageModelError, Interrupted."""
    endpoint = _endpoint(server, "")

    async def get(session: aiohttp.ClientSession) -> list[str]:
        async with session.get(f"{endpoint.url}/models", allow_redirects=False) as reply:
            await _check(endpoint, reply)
            body = await reply.text(errors="replace")
        try:
            return [_name(model["id"]) for model in json.loads(body)["data"]][:_MAX_MODELS]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Malformed(f"sent {body[:80]!r}, not a list of models. Its address often ends in /v1") from error

    return _run(endpoint, get, interrupted)


def _name(listed: Any) -> str:
    """A model's name in a list. Raises TypeError for what is none, which may be anything of a server's."""
    if not isinstance(listed, str) or len(listed) > _MAX_NAME:
        raise TypeError("not a model's name")
    return encodable(listed)


def endpoint_of(server: RemoteServer, interrupted: IsInterrupted) -> Endpoint:
    """The endpoint of a server's chosen model, or of the first that it lists.

    Raises LanguageModelError where it has none, Interrupted.
    """
    if server.model:
        return _endpoint(server, server.model)
    models = list_models(server, interrupted)
    if not models:
        raise LanguageModelError(f"The language model server {server.url} has no model. Load one there.")
    return _endpoint(server, models[0])


def _endpoint(server: RemoteServer, model: str) -> Endpoint:
    return Endpoint(server.url.rstrip("/"), model, server.key(), server.read_timeout)


def _run(endpoint: Endpoint, request: Request[Result], poll: IsInterrupted) -> Result:
    """Runs a request in an event loop of its own thread (ComfyUI's has one running already), while polling for a stop.

    poll: true to interrupt. An interrupted request is not waited for: a name lookup cannot be interrupted.
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

    def run() -> None:
        try:
            result.set_result(asyncio.run(cancellable()))
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="language model", daemon=True).start()
    while not wait({result}, _POLL).done:
        if poll():
            stopped.set()
            with suppress(RuntimeError):  # it has just ended
                for cancel in cancels:
                    cancel()
            raise Interrupted("the language model was interrupted")
    poll()  # reports the end of the answer
    return result.result()


async def _in_session(endpoint: Endpoint, request: Request[Result]) -> Result:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT, sock_read=endpoint.read_timeout)
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        try:
            return await request(session)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, Malformed) as error:
            raise _explained(endpoint, error) from None  # its parts may hold the key


async def _check(endpoint: Endpoint, reply: aiohttp.ClientResponse) -> None:
    if reply.status != 200:
        reason = _without(endpoint.key, _reason((await reply.content.read(_MAX_ERROR_BODY)).decode(errors="replace")))
        meaning = _STATUS_MEANINGS.get(reply.status, "it refused the request")
        message = f"The language model server {endpoint.url} answered {reply.status}: {meaning}."
        raise LanguageModelError(f"{message} It says: {reason.rstrip('.')}." if reason else message, message)


def _reason(body: str) -> str:
    """The error message in a server's JSON, or the beginning of whatever it sent."""
    try:
        fields = json.loads(body)
        error = fields.get("error", fields.get("message", fields.get("detail", body)))
        body = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except (ValueError, AttributeError, RecursionError):
        pass
    return " ".join(body.split())[:_MAX_REASON]


def _without(key: str, text: str) -> str:
    return text.replace(key, "***") if key else text


def _explained(endpoint: Endpoint, error: Exception) -> LanguageModelError:
    server = f"The language model server {endpoint.url}"
    match error:
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
            return ConnectionLost(f"{server} cannot be reached. Start it, or correct the address in the node.")
        case asyncio.TimeoutError():
            return LanguageModelError(
                f"{server} sent nothing for {endpoint.read_timeout:g} seconds. Raise timeout in the node, or choose a "
                "smaller model."
            )
        case Malformed():
            problem = _without(endpoint.key, " ".join(str(error).split()))[:_MAX_REASON]
            unquoted = f"{server} does not answer as an OpenAI-compatible one. Its address often ends in /v1."
            return LanguageModelError(f"{server} {problem}.", unquoted)
    return ConnectionLost(f"{server} broke the connection in the middle of its answer. Try again.")
