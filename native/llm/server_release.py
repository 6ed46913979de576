"""Frees the memory of models on language model servers, by the API that each kind of server has for it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from .exchange import Endpoint, Refused, Transfer, body_of, check, run
from .model import LanguageModelError

log = logging.getLogger(__name__)
_TIME_LIMIT = 5.0  # seconds for each request, and for the model to be gone
_POLL = 0.1  # seconds between looks whether it is


@dataclass(frozen=True)
class UnloadAPI:
    """A kind of server's API to list loaded models and to unload one. Paths are below the address without /v1."""

    server: str
    list_path: str
    loaded: Callable[[dict[str, Any], str], list[str]]  # what is loaded of a model, by the names to unload it by
    unload_path: str
    unload_body: Callable[[str], dict[str, Any]]


def _in_ollama(reply: dict[str, Any], model: str) -> list[str]:
    names = [str(each["model"] if "model" in each else each["name"]) for each in reply["models"]]
    return [name for name in names if name in (model, f"{model}:latest")]


def _in_lm_studio(reply: dict[str, Any], model: str) -> list[str]:
    instances = [(each["key"], instance["id"]) for each in reply["models"] for instance in each["loaded_instances"]]
    return [str(instance) for key, instance in instances if model in (key, instance)]


def _in_llama_server(reply: dict[str, Any], model: str) -> list[str]:
    """Of a router; a server with one model alone lists no status, and keeps the model as long as it runs."""
    return [
        str(each["id"]) for each in reply["data"]
        if each["status"]["value"] in ("loaded", "loading", "sleeping") and each["id"] == model
    ]  # fmt: skip


APIS = (
    UnloadAPI("Ollama", "/api/ps", _in_ollama, "/api/generate", lambda name: {"model": name, "keep_alive": 0}),
    UnloadAPI(
        "LM Studio", "/api/v1/models", _in_lm_studio, "/api/v1/models/unload", lambda name: {"instance_id": name}
    ),
    UnloadAPI("llama-server", "/models", _in_llama_server, "/models/unload", lambda name: {"model": name}),
)

_waiting: dict[tuple[str, str], Endpoint] = {}  # that were asked since they were last released
_without_api: set[str] = set()  # addresses of servers that have none of APIS
_lock = threading.Lock()


def release_later(endpoint: Endpoint) -> None:
    """Notes that a server's model was asked and is to leave its memory before another model computes."""
    with _lock:
        if endpoint.url not in _without_api:
            _waiting[endpoint.url, endpoint.model] = endpoint


def release_servers() -> None:
    """Unloads the models noted by `release_later`, and waits until they are; a server that cannot is logged, once."""
    while True:
        with _lock:
            if not _waiting:
                return
            _, endpoint = _waiting.popitem()
        try:
            _release(endpoint)
        except LanguageModelError as error:
            log.warning("The memory of %s is not freed: %s", endpoint.model, error)


def _release(endpoint: Endpoint) -> None:
    root = endpoint.url.removesuffix("/v1")
    for api in APIS:
        try:
            names = _loaded(endpoint, api, root)
        except (Refused, _Foreign):
            continue
        for name in names:
            _ask(endpoint, f"{root}{api.unload_path}", api.unload_body(name))
            log.info("%s unloads %s", api.server, name)
        deadline = time.monotonic() + _TIME_LIMIT
        while names and (names := _loaded(endpoint, api, root)):
            if time.monotonic() > deadline:
                log.warning("%s at %s still has %s in memory", api.server, root, names[0])
                return
            time.sleep(_POLL)
        return
    with _lock:
        _without_api.add(endpoint.url)
    log.info("The language model server %s has no way to unload %s on request.", endpoint.url, endpoint.model)


class _Foreign(Exception):
    """A reply of another kind of server."""


def _loaded(endpoint: Endpoint, api: UnloadAPI, root: str) -> list[str]:
    """The names under which a server has the endpoint's model in memory.

    Raises _Foreign, or Refused, for another kind of server, and LanguageModelError.
    """
    reply = _ask(endpoint, f"{root}{api.list_path}", None)
    try:
        return api.loaded(json.loads(reply), endpoint.model)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _Foreign from None


def _ask(endpoint: Endpoint, url: str, body: dict[str, Any] | None) -> str:
    """The body of the reply to a POST, or to a GET where there is no body. Raises LanguageModelError."""
    transfer = Transfer(_TIME_LIMIT, _TIME_LIMIT)

    async def request(session: aiohttp.ClientSession) -> str:
        method = "GET" if body is None else "POST"
        async with session.request(method, url, json=body, allow_redirects=False) as reply:
            await check(endpoint, reply, transfer)
            return await body_of(reply, transfer)

    return run(endpoint, request, transfer, lambda: False)
