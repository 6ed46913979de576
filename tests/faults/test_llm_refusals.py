"""Servers that refuse a part of a request: asked again without it, told to the user, and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from native.llm.answer import answer
from native.llm.exchange import Endpoint
from native.llm.model import LanguageModelError, RemoteServer
from native.llm.requests import conversation_request, expansion_request
from native.llm.stream import Answer
from native.llm.styles import Idea
from tests.language_servers import Respond, asked, events, send, server_that

Body = dict[str, Any]
IDEA = Idea("a cat", "photo", "", "FLUX schnell", "short", ())
# What servers said, with what they say it about: the names are the fields that they refuse.
SCHEMA = "This response_format type is unavailable now"  # DeepSeek
LIMIT = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
TEMPERATURE = "Unsupported value: 'temperature' does not support 0.5 with this model. Only the default (1) value is."
SYSTEM = "System role not supported"
MODELS = ["m", "other"]


def expansion(endpoint: Endpoint) -> Body:
    return expansion_request(IDEA, 7, 0.5, endpoint)


def question(endpoint: Endpoint) -> Body:
    return conversation_request("Be brief.", "hello", (), 7, 0.5, 20, endpoint)


def refuses(status: int, *rules: tuple[Callable[[Body], bool], Any], seen: list[Body]) -> Respond:
    """A server that refuses requests by the first rule that holds, with its message, and notes all of them."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        body = asked(handler)
        seen.append(body)
        for rule, message in rules:
            if rule(body):
                error = message if isinstance(message, dict) else {"message": message}
                send(handler, status, json.dumps({"error": error}))
                return
        send(handler, 200, events("a cat"), "text/event-stream")

    return respond


def ask(url: str, request: Callable[[Endpoint], Body], model: str = "m") -> Answer:
    return answer(RemoteServer(url, model, read_timeout=20.0), request, lambda _: None, lambda: False)


def has(name: str) -> Callable[[Body], bool]:
    return lambda body: name in body


def has_schema(body: Body) -> bool:
    return bool(body.get("response_format", {}).get("type") == "json_schema")


def is_json_object(body: Body) -> bool:
    return bool(body.get("response_format", {}).get("type") == "json_object")


def has_system(body: Body) -> bool:
    return any(message["role"] == "system" for message in body["messages"])


def fields(body: Body) -> Body:
    return {name: value for name, value in body.items() if name not in ("messages", "model", "stream")}


@pytest.mark.parametrize(
    ("rules", "left", "note"),
    [
        ([(has_schema, SCHEMA)], {"response_format": {"type": "json_object"}}, "takes no JSON schema"),
        (
            [(has_schema, SCHEMA), (is_json_object, "'response_format.type' must be 'json_schema' or 'text'")],
            {"response_format": None}, "cannot be held to JSON",
        ),
        ([(has("max_tokens"), LIMIT)], {"max_tokens": None, "max_completion_tokens": 1624}, ""),
        ([(has("max_tokens"), "unknown field max_tokens")], {"max_tokens": None}, "does not take max_tokens"),
        (
            [(has("max_tokens"), LIMIT), (has("max_completion_tokens"), "max_completion_tokens: not permitted")],
            {"max_tokens": None}, "does not take max_tokens",
        ),
        ([(has("temperature"), TEMPERATURE)], {"temperature": None}, "does not take temperature"),
        ([(has("temperature"), {"message": "Unsupported value", "param": "temperature"})], {"temperature": None},
         "does not take temperature"),
        ([(has("seed"), "Extra inputs are not permitted: body.seed")], {"seed": None}, "does not take seed"),
        (
            [(has_schema, SCHEMA), (has("max_tokens"), LIMIT), (has("temperature"), TEMPERATURE),
             (has("seed"), "a seed")],
            {"response_format": {"type": "json_object"}, "max_tokens": None, "max_completion_tokens": 1624,
             "temperature": None, "seed": None},
            "does not take seed",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [400, 422])
def test_it_is_asked_again_without_what_it_refuses(status: int, rules: Any, left: Body, note: str) -> None:
    seen: list[Body] = []
    with server_that(refuses(status, *rules, seen=seen)) as url:
        first = ask(url, expansion)
        tried = len(seen)
        again = ask(url, expansion)
    assert first.text == again.text == "a cat"
    assert tried > 1
    assert len(seen) == tried + 1, "a server is remembered"
    wanted = fields(seen[0]) | left
    for each in (seen[tried - 1], seen[tried]):
        assert fields(each) == {name: value for name, value in wanted.items() if value is not None}
        assert each["messages"] == seen[0]["messages"]
    for found in (first, again):
        assert (note in " ".join(found.notes)) if note else not found.notes


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, SYSTEM), (500, "Jinja Exception: System role not supported"),
        (422, "Template error: invalid system message"),
        (400, "Conversation roles must alternate user/assistant/user/assistant/..."),
        (400, "invalid operation: only user and assistant roles are supported; unsupported role 'system'"),
    ],
)  # fmt: skip
def test_a_template_without_a_system_role(status: int, message: str) -> None:
    seen: list[Body] = []
    with server_that(refuses(status, (has_system, message), seen=seen)) as url:
        assert ask(url, question).text == "a cat"
        assert ask(url, expansion).text == "a cat"
    assert seen[1]["messages"] == [{"role": "user", "content": "Be brief.\n\nhello"}]
    assert len(seen) == 3
    (message_to_expand,) = seen[2]["messages"]
    assert message_to_expand["content"].endswith("\n\na cat")
    assert "JSON" in message_to_expand["content"]


def test_a_system_text_stands_before_pictures_too() -> None:
    def seeing(endpoint: Endpoint) -> Body:
        return conversation_request("Be brief.", "hello", ["data:image/png;base64,AA"], 7, 0.5, 20, endpoint)

    seen: list[Body] = []
    with server_that(refuses(400, (has_system, SYSTEM), seen=seen)) as url:
        ask(url, seeing)
    (message,) = seen[1]["messages"]
    assert [part.get("text", "a picture") for part in message["content"]] == ["Be brief.", "hello", "a picture"]


def test_each_model_and_server_is_remembered_by_itself() -> None:
    seen: list[Body] = []
    rule = (lambda body: body["model"] == "m" and "temperature" in body, TEMPERATURE)
    with server_that(refuses(400, rule, seen=seen)) as url:
        ask(url, question)
        assert not ask(url, question, "other").notes
        assert "temperature" in seen[-1]
    with server_that(refuses(400, seen=seen)) as url:
        assert not ask(url, question).notes


def test_a_value_that_is_too_large_is_left_out_this_time_alone() -> None:
    seen: list[Body] = []
    rule = (lambda body: body.get("max_tokens", 0) > 10, "max_tokens is too large: 20. It can be at most 10.")
    with server_that(refuses(400, rule, seen=seen)) as url:
        assert "max_tokens" in " ".join(ask(url, question).notes)
        ask(url, lambda endpoint: {**question(endpoint), "max_tokens": 5})
    assert seen[-1]["max_tokens"] == 5


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "image input is not supported"), (400, "no such thing"), (401, LIMIT), (500, LIMIT), (429, SCHEMA)],
)
def test_what_cannot_be_left_out_is_an_error_at_once(status: int, message: str) -> None:
    seen: list[Body] = []
    always = refuses(status, (lambda _: True, message), seen=seen)
    with server_that(always) as url, pytest.raises(LanguageModelError, match=f"answered {status}"):
        ask(url, question)
    assert len(seen) == 1


def test_a_server_that_refuses_whatever_is_asked_is_left() -> None:
    seen: list[Body] = []
    everything = "response_format max_tokens max_completion_tokens temperature seed system role"
    always = refuses(400, (lambda _: True, everything), seen=seen)
    with server_that(always) as url, pytest.raises(LanguageModelError, match="answered 400"):
        ask(url, expansion)
    assert 2 < len(seen) < 10


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [
        ([{"id": "text-embedding-nomic-embed-text-v1.5"}, {"id": "qwen3-4b"}], "qwen3-4b"),  # odysseus #4487
        ([{"id": "bge-m3"}, {"id": "whisper-1"}, {"id": "tts-1-hd"}, {"id": "llama3.2:3b"}], "llama3.2:3b"),
        ([{"id": "a", "type": "embeddings"}, {"id": "b", "type": "llm"}], "b"),
        ([{"id": "a", "capabilities": {"completion_chat": False}}, {"id": "b", "capabilities": {}}], "b"),
        ([{"id": "a", "architecture": {"output_modalities": ["image"]}}, {"id": "b"}], "b"),
        ([{"id": "a", "capabilities": ["embedding"]}, {"id": "b", "capabilities": ["completion", "vision"]}], "b"),
        ([{"id": "Alberta-7B"}, {"id": "b"}], "Alberta-7B"),
        ([{"id": "intfloat/multilingual-e5-large"}, {"id": "Qwen3-Reranker-4B"}, {"id": "b"}], "b"),
    ],
)
def test_a_model_that_chats_is_chosen(entries: list[Body], chosen: str) -> None:
    seen: list[Body] = []
    lists = json.dumps({"object": "list", "data": entries})
    with server_that(refuses(400, seen=seen), lambda handler: send(handler, 200, lists)) as url:
        ask(url, question, "")
    assert seen[0]["model"] == chosen


def test_a_server_that_has_no_model_that_chats() -> None:
    lists = json.dumps({"data": [{"id": "nomic-embed-text"}, {"id": "bge-m3"}]})
    with server_that(refuses(400, seen=[]), lambda handler: send(handler, 200, lists)) as url:
        with pytest.raises(LanguageModelError, match="lists no model that chats, but nomic-embed-text, bge-m3"):
            ask(url, question, "")
        assert ask(url, question, "bge-m3").text == "a cat"
