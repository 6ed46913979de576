"""An answer of a language model, wherever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import IsInterrupted
from .chat import Endpoint, Show, ask, list_models
from .errors import LanguageModelError
from .model import LanguageModel, LocalModel, RemoteServer
from .server_lifetime import with_model
from .stream import Answer


def answer(
    model: LanguageModel, request: Callable[[Endpoint], dict[str, Any]], show: Show, interrupted: IsInterrupted
) -> Answer:
    """The answer to the request that is made for the model's endpoint, shown as it grows.

    Raises LanguageModelError, Interrupted.
    """

    def use(endpoint: Endpoint) -> Answer:
        return ask(endpoint, request(endpoint), show, interrupted)

    return (
        with_model(model, use, interrupted) if isinstance(model, LocalModel) else use(endpoint_of(model, interrupted))
    )


def models_of(server: RemoteServer, interrupted: IsInterrupted) -> list[str]:
    """The names of the models that a server lists. Raises LanguageModelError, Interrupted."""
    return list_models(_endpoint(server, ""), interrupted)


def endpoint_of(server: RemoteServer, interrupted: IsInterrupted) -> Endpoint:
    """A server's endpoint with one of its models; raises LanguageModelError where it has none, Interrupted."""
    if server.model:
        return _endpoint(server, server.model)
    models = models_of(server, interrupted)
    if not models:
        raise LanguageModelError(f"The language model server {server.url} has no model. Load one there.")
    return _endpoint(server, models[0])


def _endpoint(server: RemoteServer, model: str) -> Endpoint:
    return Endpoint(server.url.rstrip("/"), model, server.key(), server.patience)
