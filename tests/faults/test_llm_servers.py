"""Language model servers that are down, slow, refuse, or send what is no answer; and a real one beside them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from native.client import Interrupted
from native.llm.answer import answer
from native.llm.chat import list_models
from native.llm.exchange import Endpoint
from native.llm.expansion import expansion
from native.llm.model import LanguageModelError, RemoteServer
from native.llm.requests import conversation_request, expansion_request
from native.llm.stream import Answer
from native.llm.styles import Idea
from tests import random_llm
from tests.faults.loaders import is_paragraph
from tests.language_servers import Respond, endless, events, real_server, send, server_that

KEY = "sk-the-secret-key"
VARIABLE = "GGML_LLM_TEST_KEY"
IDEA = Idea("a cat", "photo", "", "FLUX schnell", "short", ("red hat",))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, KEY)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """llama.cpp's server with a key."""
    with real_server(random_llm.write(tmp_path_factory.mktemp("models") / "real.gguf"), KEY) as url:
        yield url


def ask(
    server: RemoteServer, interrupted: Callable[[], bool] = lambda: False, shown: list[str] | None = None
) -> Answer:
    def asked(endpoint: Endpoint) -> dict[str, Any]:
        return conversation_request("", "hello", (), 1, 1.0, 20, endpoint)

    def show(so_far: Answer) -> None:
        if shown is not None:
            shown.append(so_far.text)

    return answer(server, asked, show, interrupted)


def refusal(responds: Respond, **changes: Any) -> str:
    """The error message for a server that answers with `responds`; asserts that the key is not in it."""
    with server_that(responds) as url, pytest.raises(LanguageModelError) as error:
        ask(RemoteServer(url, key_variable=VARIABLE, **changes))
    said = str(error.value)
    assert url in said
    assert KEY not in said
    assert is_paragraph(said)
    return said


def test_a_real_server_answers(real: str) -> None:
    server = RemoteServer(real + "/", key_variable=VARIABLE)
    assert [Path(name).name for name in list_models(server, lambda: False)] == ["real.gguf"]
    first = ask(server).text
    assert first
    assert ask(server).text == first
    found = answer(server, lambda endpoint: expansion_request(IDEA, 5, 1.0, endpoint), lambda _: None, lambda: False)
    assert expansion(found.text, IDEA, len).prompt.startswith("red hat, ")


def test_a_wrong_key_is_said_and_not_shown(real: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("", VARIABLE):
        monkeypatch.setenv(VARIABLE, "sk-another-key")
        with pytest.raises(LanguageModelError, match="401: it does not accept this key.*Invalid API Key") as error:
            ask(RemoteServer(real, "real.gguf", wrong))
        assert "another" not in str(error.value)


def test_a_server_that_is_down() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        for model in ("", "m"):
            with pytest.raises(LanguageModelError, match="cannot be reached. Start it, or correct the") as error:
                ask(RemoteServer(url, model))
            assert is_paragraph(str(error.value))


@pytest.mark.parametrize(
    ("status", "meaning"),
    [(429, "too many requests"), (500, "internal error"), (503, "still loading"), (404, "no such"), (418, "refused")],
)
def test_a_refusal_carries_the_servers_words(status: int, meaning: str) -> None:
    body = json.dumps({"error": {"message": f"no\nnever with {KEY}", "code": status}})
    said = refusal(lambda handler: send(handler, status, body))
    assert f"answered {status}: " in said
    assert meaning in said
    assert "no never with ***" in said


@pytest.mark.parametrize(
    "body", ["", "<html>" + "x" * 5000, '{"detail": "y"}', "[" * 9999, "[1]", '"text"', '{"error": null}']
)
def test_a_refusal_in_any_form(body: str) -> None:
    assert "answered 500" in refusal(lambda handler: send(handler, 500, body))


def test_a_redirect_does_not_carry_the_key_elsewhere() -> None:
    def elsewhere(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", "http://127.0.0.1:9/v1/chat/completions")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    assert "answered 307" in refusal(elsewhere)


@pytest.mark.parametrize(
    "body",
    ["<html>", "{}", '{"choices": 3}', '{"choices": [{"delta": 3}]}', "\xff", "[" * 100_000],
)
def test_garbage(body: str) -> None:
    said = refusal(lambda handler: send(handler, 200, f"data: {body}\n\n", "text/event-stream"))
    assert "is not part of an answer" in said


def test_a_web_page_in_place_of_an_answer() -> None:
    said = refusal(lambda handler: send(handler, 200, "<html>Welcome</html>", "text/html"))
    assert "'<html>Welcome</html>', which is not part of an answer. Is it an OpenAI-compatible server?" in said


def test_an_event_without_end() -> None:
    body = "data: " + "x" * (3 << 20)
    assert "an event of more than 1,048,576 bytes" in refusal(
        lambda handler: send(handler, 200, body, "text/event-stream")
    )


def test_an_error_in_the_middle() -> None:
    body = events("a cat", end=False) + f'data: {{"error": {{"message": "out of memory {KEY}"}}}}\n\n'
    said = refusal(lambda handler: send(handler, 200, body, "text/event-stream"))
    assert "failed in the middle of its answer" in said
    assert "out of memory ***" in said


@pytest.mark.parametrize("text", ["", "a cat"])
def test_half_a_stream_that_ends_well(text: str) -> None:
    said = refusal(lambda handler: send(handler, 200, events(text, end=False), "text/event-stream"))
    assert f"broke off in the middle of its answer, after {len(text)} characters" in said


def test_half_a_stream_that_breaks() -> None:
    def breaks(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(events("a cat", end=False).encode())

    assert "broke the connection in the middle of its answer" in refusal(breaks)


def test_a_server_that_says_nothing_is_left_and_can_be_interrupted() -> None:
    done = threading.Event()

    def hangs(handler: BaseHTTPRequestHandler) -> None:
        done.wait(60)

    try:
        assert "sent nothing for 0.2 seconds" in refusal(hangs, read_timeout=0.2)
        looks: list[int] = []
        with server_that(hangs) as url, pytest.raises(Interrupted):
            ask(RemoteServer(url, "m", read_timeout=60.0), lambda: len(looks) > 3 or bool(looks.append(1)))
        with server_that(hangs) as url, pytest.raises(Interrupted):
            ask(RemoteServer(url, read_timeout=60.0), lambda: True)
    finally:
        done.set()


def test_an_interrupt_between_two_words_ends_the_connection() -> None:
    """The server's next word finds nobody."""
    gone = threading.Event()

    shown: list[str] = []
    with server_that(endless("cat ", gone)) as url:
        with pytest.raises(Interrupted):
            ask(RemoteServer(url, "m"), lambda: len(shown) > 1, shown)
        assert gone.wait(30)
    assert shown[0].startswith("cat ")


def test_an_answer_that_is_not_streamed() -> None:
    message = {"content": "a cat", "reasoning": "hm"}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]})
    with server_that(lambda handler: send(handler, 200, body)) as url:
        found = ask(RemoteServer(url))
    assert (found.text, found.reasoning, found.finish) == ("a cat", "hm", "stop")


def test_what_follows_the_end_is_not_waited_for() -> None:
    done = threading.Event()

    def stays(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.wfile.write((": ping\n\n" + events("a ", "cat")).encode())
        done.wait(60)

    with server_that(stays) as url:
        try:
            assert ask(RemoteServer(url, read_timeout=30.0)).text == "a cat"
        finally:
            done.set()
