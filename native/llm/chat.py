"""The client of OpenAI-compatible servers: chat completions, streamed, and the list of models.

It serves llama.cpp's server in our child and any other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import aiohttp

from ..errors import IsInterrupted
from .exchange import Endpoint, Refused, Transfer, body_of, check, run
from .model import LanguageModelError, RemoteServer
from .refusals import adaptation_for, adaptations_of, adapted, is_of_value, remember
from .server_models import chat_model, models_in
from .stream import Answer, read_stream

log = logging.getLogger(__name__)
OnProgress = Callable[[Answer], None]
_SECONDS_PER_TOKEN = 2.0  # of the slowest model that is waited for, beside the timeout
_USUAL_TOKENS = 4096  # of an answer to a request that does not limit it


def complete(endpoint: Endpoint, body: dict[str, Any], on_progress: OnProgress, interrupted: IsInterrupted) -> Answer:
    """Sends a chat request and returns the answer; `on_progress` gets what has come so far.

    What the server refuses of the request is left out or replaced, which `notes` of the answer tell.
    Raises LanguageModelError, also for an answer that breaks off or takes too long, and Interrupted.
    """
    answer = Answer()
    tokens = body.get("max_tokens", _USUAL_TOKENS)
    transfer = Transfer(endpoint.read_timeout, endpoint.read_timeout + _SECONDS_PER_TOKEN * tokens)
    whole = {**body, "model": endpoint.model, "stream": True}

    async def post(session: aiohttp.ClientSession) -> Answer:
        adaptations, lasting = adaptations_of(endpoint), adaptations_of(endpoint)
        while True:
            payload, notes = adapted(whole, adaptations)
            try:
                await _answered(session, endpoint, payload, answer, transfer)
                break
            except Refused as refused:
                found = adaptation_for(refused, payload)
                if found is None:
                    raise
                log.info("%s It is asked again without that.", refused)
                adaptations += (found,)
                lasting += () if is_of_value(refused) else (found,)
            transfer.progressed()
        remember(endpoint, lasting)
        answer.notes.extend(notes)
        return answer

    reported = 0

    def report() -> bool:
        nonlocal reported
        if answer.pieces > reported:
            reported = answer.pieces
            on_progress(answer)
        return interrupted()

    return run(endpoint, post, transfer, report)


async def _answered(
    session: aiohttp.ClientSession, endpoint: Endpoint, payload: dict[str, Any], answer: Answer, transfer: Transfer
) -> None:
    async with session.post(f"{endpoint.url}/chat/completions", json=payload, allow_redirects=False) as reply:
        await check(endpoint, reply, transfer)
        await read_stream(reply, answer, transfer)


def list_models(server: RemoteServer, interrupted: IsInterrupted) -> list[str]:
    """The names of the models that a server lists within its timeout. Raises LanguageModelError, Interrupted."""
    return [model.name for model in models_in(_listed(server, interrupted))]


def endpoint_of(server: RemoteServer, interrupted: IsInterrupted) -> Endpoint:
    """The endpoint of a server's chosen model, or of the first that it lists for chats.

    Raises LanguageModelError where it has none, Interrupted.
    """
    if server.model:
        return _endpoint(server, server.model)
    models = models_in(_listed(server, interrupted))
    if not models:
        raise LanguageModelError(f"The language model server {server.url} has no model. Load one there.")
    chosen = chat_model(models)
    if chosen is None:
        names = ", ".join(model.name for model in models[:5])
        raise LanguageModelError(
            f"The language model server {server.url} lists no model that chats, but {names}. Load one there, or write "
            "its name into model in the node."
        )
    return _endpoint(server, chosen)


def _listed(server: RemoteServer, interrupted: IsInterrupted) -> str:
    endpoint = _endpoint(server, "")
    transfer = Transfer(server.read_timeout, server.read_timeout)

    async def get(session: aiohttp.ClientSession) -> str:
        async with session.get(f"{endpoint.url}/models", allow_redirects=False) as reply:
            await check(endpoint, reply, transfer)
            body = await body_of(reply, transfer)
        models_in(body)  # raises while the server is known
        return body

    return run(endpoint, get, transfer, interrupted)


def _endpoint(server: RemoteServer, model: str) -> Endpoint:
    return Endpoint(server.url.rstrip("/"), model, server.key(), server.read_timeout)
