"""Answers of a language model, local or on a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import IsInterrupted
from .chat import OnProgress, complete, endpoint_of
from .exchange import Endpoint
from .model import LanguageModel, LocalModel
from .server_lifetime import with_server
from .server_release import release_later
from .stream import Answer


def answer(
    model: LanguageModel,
    request: Callable[[Endpoint], dict[str, Any]],
    on_progress: OnProgress,
    interrupted: IsInterrupted,
) -> Answer:
    """The model's answer to a chat request; a local model is started first where it is not running.

    request: the request's body for an endpoint. on_progress: gets what has come so far.
    Raises LanguageModelError, Interrupted.
    """

    def complete_at(endpoint: Endpoint) -> Answer:
        return complete(endpoint, request(endpoint), on_progress, interrupted)

    if isinstance(model, LocalModel):
        return with_server(model, complete_at, interrupted)
    endpoint = endpoint_of(model, interrupted)
    if model.release:
        release_later(endpoint)
    return complete_at(endpoint)
