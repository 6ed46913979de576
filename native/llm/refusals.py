"""Requests that a server refuses as they are: asked again without what it refuses, or with what its message names."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..lru import LRU
from .exchange import Endpoint, Refused

Body = dict[str, Any]
_MAX_SERVERS = 256  # that are remembered
# A value that is out of range says nothing of other requests.
_OF_VALUE = re.compile(
    r"too (large|big|high|long|many)|maximum|at most|less than|greater than|exceed|\brange\b|between"
    r"|<=|>=|\u2264|\u2265",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Adaptation:
    """A change of one field of a request, for a server that refuses it."""

    field: str
    statuses: tuple[int, ...]
    named: re.Pattern[str]  # in the server's message
    applies: Callable[[Body], bool]
    change: Callable[[Body], Body]
    note: str  # for the user; "": nothing is lost


def without(body: Body, *names: str) -> Body:
    """A body without some of its fields."""
    return {name: value for name, value in body.items() if name not in names}


def _drop(name: str, named: str, note: str) -> Adaptation:
    return Adaptation(
        _FIELDS.get(name, name), _REFUSALS, re.compile(named, re.IGNORECASE), lambda body: name in body,
        lambda body: without(body, name), note,
    )  # fmt: skip


def _plain_json(body: Body) -> Body:
    return body | {"response_format": {"type": "json_object"}}


def _renamed_limit(body: Body) -> Body:
    return without(body, "max_tokens") | {"max_completion_tokens": body["max_tokens"]}


def _system_folded(body: Body) -> Body:
    """With the system message's text before that of the first message of the user."""
    system, user, *rest = body["messages"]
    content = user["content"]
    if isinstance(content, list):
        content = [{"type": "text", "text": system["content"]}, *content]
    else:
        content = f"{system['content']}\n\n{content}"
    return body | {"messages": [{**user, "content": content}, *rest]}


_REFUSALS = (400, 422)
_FIELDS = {"max_completion_tokens": "max_tokens"}  # by their names here
_FORMAT = r"response_format|json_schema|json_object|structured|grammar|guided_json"
# The first whose words are in the message and that changes anything is tried, then the next.
ADAPTATIONS = (
    Adaptation(
        "response_format", _REFUSALS, re.compile(_FORMAT, re.IGNORECASE),
        lambda body: body.get("response_format", {}).get("type") == "json_schema", _plain_json,
        "The server takes no JSON schema; it was asked for JSON alone.",
    ),
    _drop("response_format", _FORMAT, "The server cannot be held to JSON; it was only told to write it."),
    Adaptation(
        "max_tokens", _REFUSALS, re.compile("max_completion_tokens"), lambda body: "max_tokens" in body,
        _renamed_limit, "",
    ),
    _drop("max_tokens", "max_tokens", "The server does not take max_tokens, which has no effect on it."),
    _drop("max_completion_tokens", "max_completion_tokens",
          "The server does not take max_tokens, which has no effect on it."),
    _drop("temperature", "temperature", "The server does not take temperature, which has no effect on it."),
    _drop("seed", r"\bseed\b", "The server does not take seed, which has no effect on it."),
    Adaptation(
        "messages", (400, 422, 500),  # a chat template that fails is often an internal error
        re.compile(r"\bsystem\W+(role|message|prompt|instruction)|role\W+system|roles? must alternate|"
                   r"(unsupported|invalid|unknown) role|developer instruction", re.IGNORECASE),
        lambda body: len(body["messages"]) > 1 and body["messages"][0]["role"] == "system", _system_folded, "",
    ),
)  # fmt: skip

_learned: LRU[tuple[str, str], tuple[Adaptation, ...]] = LRU(_MAX_SERVERS)
_lock = threading.Lock()


def adaptations_of(endpoint: Endpoint) -> tuple[Adaptation, ...]:
    """The adaptations that a server's model was found to need since ComfyUI started."""
    with _lock:
        return _learned.get((endpoint.url, endpoint.model)) or ()


def adapted(body: Body, adaptations: tuple[Adaptation, ...]) -> tuple[Body, list[str]]:
    """A request with adaptations, as far as they apply to it, and notes for the user of what is lost by them."""
    notes: dict[str, str] = {}
    for each in adaptations:
        if each.applies(body):
            body = each.change(body)
            notes[each.field] = each.note
    return body, [note for note in notes.values() if note]


def adaptation_for(refused: Refused, body: Body) -> Adaptation | None:
    """The adaptation of a refused request to try next; None where the message names nothing that could change."""
    for each in ADAPTATIONS:
        if refused.status in each.statuses and each.named.search(refused.reason) and each.applies(body):
            return each
    return None


def is_of_value(refused: Refused) -> bool:
    """Whether a refusal is about how large a value is, so that another request may have a value there."""
    return _OF_VALUE.search(refused.reason) is not None


def remember(endpoint: Endpoint, adaptations: tuple[Adaptation, ...]) -> None:
    """Notes what a server's model needs, for its next requests."""
    with _lock:
        _learned.put((endpoint.url, endpoint.model), adaptations)
