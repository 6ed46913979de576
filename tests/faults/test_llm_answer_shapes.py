"""Answers in shapes that servers give them: in other fields, in other streams, with characters that nobody sees."""

from __future__ import annotations

import json
from typing import Any

import pytest

from native.llm.answer import answer
from native.llm.exchange import Endpoint
from native.llm.expansion import Expansion, expansion_of
from native.llm.model import LanguageModelError, RemoteServer
from native.llm.requests import conversation_request, expansion_request, expansion_tokens
from native.llm.stream import Answer
from native.llm.styles import Idea
from tests.language_servers import send, server_that, stream
from tests.pack import part

chat_node = part("nodes.language.chat")
IDEA = Idea("a cat", "photo", "", "FLUX schnell", "short", ())
PROMPT = {"prompt": "A cat on a wall.", "negative": "blur"}
JSON = json.dumps(PROMPT)
THINKING = 'hm, {a cat} ... {"prompt": "draft", "negative": ""} or better: '


def delta(finish: Any = None, **fields: Any) -> dict[str, Any]:
    """A chunk of an answer."""
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def whole(finish: Any = "stop", **fields: Any) -> str:
    """An answer that is no stream."""
    return json.dumps({"choices": [{"message": fields, "finish_reason": finish}]})


def received(body: str, kind: str = "text/event-stream") -> Answer:
    """The answer that a client reads from a reply."""

    def request(endpoint: Endpoint) -> dict[str, Any]:
        return conversation_request("", "hello", (), 1, 1.0, 20, endpoint)

    with server_that(lambda handler: send(handler, 200, body, kind)) as url:
        return answer(RemoteServer(url, "m", read_timeout=20.0), request, lambda _: None, lambda: False)


def expanded(body: str, kind: str = "text/event-stream") -> Expansion:
    """The prompt that the expander makes of a reply."""

    def request(endpoint: Endpoint) -> dict[str, Any]:
        return expansion_request(IDEA, 1, 1.0, endpoint)

    with server_that(lambda handler: send(handler, 200, body, kind)) as url:
        found = answer(RemoteServer(url, "m", read_timeout=20.0), request, lambda _: None, lambda: False)
    return expansion_of(found, IDEA, len, expansion_tokens("short"))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("thinking", ["", THINKING])
@pytest.mark.parametrize("content", [None, "", "\n\n"])
def test_the_json_is_in_the_thinking(field: str, thinking: str, content: str | None) -> None:
    """LM Studio #1773, vLLM #40816, llama.cpp #22537. The last that fits counts, as drafts come before it."""
    parts = [thinking + JSON[:10], JSON[10:]]
    chunks = [delta(**{field: part, "content": content}) for part in parts]
    assert expanded(stream(*chunks, delta("stop"))) == Expansion(**PROMPT)
    assert expanded(whole(**{field: thinking + JSON, "content": content}), "application/json") == Expansion(**PROMPT)


def test_an_answer_behind_a_thinking_that_was_never_told_apart() -> None:
    for body in (
        stream(delta(reasoning_content=f"hm</think>{JSON}"), delta("stop")),
        stream(delta(content="<think>hm"), delta(content=f"</think>{JSON}"), delta("stop")),
        stream(delta(content=f"<think>{THINKING}{JSON}"), delta("stop")),
        stream(delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]),
               delta(content=[{"type": "text", "text": JSON}]), delta("stop")),
    ):  # fmt: skip
        assert expanded(body) == Expansion(**PROMPT)


def test_what_is_in_the_answer_goes_before_what_is_in_the_thinking() -> None:
    draft = json.dumps({"prompt": "draft", "negative": ""})
    assert expanded(stream(delta(reasoning=draft), delta(content=JSON), delta("stop"))) == Expansion(**PROMPT)


@pytest.mark.parametrize(
    ("counts", "number"),
    [
        ({}, expansion_tokens("short")),
        ({"usage": {"completion_tokens": 1234}}, 1234),
        ({"usage": None, "timings": {"predicted_n": 99}}, 99),
    ],
)
@pytest.mark.parametrize("field", ["reasoning_content", "content"])
def test_thinking_that_used_the_tokens_up_is_said_with_the_number(
    field: str, counts: dict[str, Any], number: int
) -> None:
    """Also where it holds a draft of the answer."""
    thinking = f"{'<think>' if field == 'content' else ''}{THINKING}"
    body = stream(delta(**{field: thinking}), delta("length"), {"choices": [], **counts})
    with pytest.raises(
        LanguageModelError, match=rf"all of its {number:,} tokens up for thinking .6\d characters"
    ) as said:
        expanded(body)
    assert "Raise max_tokens" in str(said.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (stream(delta(reasoning="hm " * 30), delta("length")), r"all of its 20 tokens up for thinking .89 char"),
        (stream(delta(reasoning_content="hm, a cat"), delta("stop")), "gave no answer. It thought: 'hm, a cat'"),
        (stream(delta(content="<think>hm, a cat"), delta("stop")), "gave no answer. It thought: 'hm, a cat'"),
        (stream(delta(content=" \n"), delta("stop")), r"with an empty text after 20 tokens \(finish_reason stop\)"),
        (stream(delta("content_filter")), "withheld the language model's answer"),
        (stream({"choices": []}), "with an empty text"),
    ],
)
def test_a_chat_never_says_nothing_without_a_word(body: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_node, "answer_at", lambda *_: received(body))
    with pytest.raises(Exception, match=message):
        chat_node.GGMLChat.execute(None, "", "hello", 1, 1.0, 20)


def test_the_thinking_is_an_output_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for body in (
        stream(*(delta(reasoning_content=word) for word in ("hm, ", "a cat")), delta(content="meow"), delta("stop")),
        stream(delta(content="<think>hm, a"), delta(content=" cat</think>\nmeow"), delta("stop")),
    ):
        monkeypatch.setattr(chat_node, "answer_at", lambda *_, body=body: received(body))
        monkeypatch.setattr(chat_node, "show", lambda *_: None)
        assert chat_node.GGMLChat.execute(None, "", "hello", 1, 1.0, 20).result == ("meow", "hm, a cat")


COUNTS = {"usage": {"completion_tokens": 3}, "id": "x"}


@pytest.mark.parametrize(
    "body",
    [
        stream(delta(content="a "), COUNTS, delta(content="cat"), delta("stop")),  # no choices
        stream(None, delta(content="a "), None, delta(content="cat"), delta("stop"), None),
        stream({"choices": None}, {"choices": []}, {"choices": [None]}, delta(content="a cat"), delta("stop")),
        stream(delta(content="a cat"), delta("")),  # FastChat #3160, ollama #4357
        stream(delta(content="a cat")),
        stream(delta("", content="a cat"), COUNTS),
        stream({"choices": [{"delta": {"content": "a cat"}}]}),
        stream({"choices": [{"delta": None, "finish_reason": None}]}, delta(content="a cat"), delta("stop")),
        stream(delta(content="a cat"), delta("stop"), end=""),
        stream(delta(content="a cat"), end="data: [DONE]"),  # without a line end
        stream(delta(content="a cat")).replace("\n", "\r\n"),
        stream(delta(content="a cat")).replace("data: ", "data:"),
        ": ping\n\nevent: message\nid: 1\n" + stream(delta(content="a cat"), delta("stop")),
        stream(delta(content="a cat"), {"error": None, "choices": [{"delta": {}, "finish_reason": "stop"}]}),
        stream(delta(content="a cat"), json.loads(whole(content="a cat"))),
        stream({"choices": [{"text": "a cat", "finish_reason": "stop"}]}),
        json.dumps(delta("stop", content="a cat")),  # one line of JSON
    ],
)  # fmt: skip
def test_streams_in_other_shapes(body: str) -> None:
    found = received(body)
    assert (found.text, found.finish) == ("a cat", "stop")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (stream(delta(content="a cat"), delta("stop")), "text/plain"),
        (": ping\n\n" + stream(delta(content="a cat")), "application/octet-stream"),
        (whole(content="a cat"), "text/plain"),
        (whole(None, content="a cat"), "application/json"),
        (whole("", content=[{"type": "text", "text": "a cat"}]), "application/json"),
    ],
)
def test_bodies_under_other_content_types(body: str, kind: str) -> None:
    found = received(body, kind)
    assert (found.text, found.finish) == ("a cat", "stop")


@pytest.mark.parametrize("chunks", [[None], [COUNTS], [{}, {}], [None, COUNTS]])
def test_a_stream_without_any_answer_is_none(chunks: list[Any]) -> None:
    with pytest.raises(LanguageModelError, match="which is not part of an answer"):
        received(stream(*chunks))


UNSEEN = [
    chr(code) for code in (
        *range(9), *range(14, 32), *range(127, 133), *range(134, 160), 0xAD, 0x61C, 0x200B, 0x200E, 0x200F,
        *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF, 0xFFF9, 0xE0001, 0xE0041,
    )
]  # fmt: skip


@pytest.mark.parametrize("escaped", [True, False])
def test_characters_that_nobody_sees_do_not_reach_the_prompt(escaped: bool) -> None:
    """Written as they are or escaped in the JSON that the model writes."""
    dirty = "".join(f"{mark}c" for mark in UNSEEN)
    answered = json.dumps({"prompt": f"A {dirty} cat", "negative": dirty}, ensure_ascii=escaped)
    made = expanded(stream(delta(content=answered), delta("stop")))
    assert made == Expansion(f"A {'c' * len(UNSEEN)} cat", "c" * len(UNSEEN))
    found = received(stream(delta(content=dirty, reasoning=dirty), delta("stop")))
    assert (found.text, found.reasoning) == ("c" * len(UNSEEN),) * 2


def test_what_belongs_to_a_text_stays() -> None:
    """Line ends, tabs, joiners of letters and emoji, writing from the right."""
    kept = "a\n\tb می‌خواهم 👩‍👩‍👧 שלום ❤️"
    assert received(stream(delta(content=kept), delta("stop"))).text == kept
    assert received(stream(delta(content="a\r\nb\rc\u2028d\x0be"), delta("stop"))).text == "a\nb\nc\nd\ne"
