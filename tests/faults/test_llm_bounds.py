"""Servers that trickle or flood: each reply ends within its time and its bytes, and the message has both."""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import psutil
import pytest

from native.llm.answer import answer
from native.llm.chat import list_models
from native.llm.exchange import MAX_BODY, Endpoint
from native.llm.model import LanguageModelError, RemoteServer
from native.llm.requests import conversation_request
from tests.language_servers import Respond, begin, drip, endless, events, send, server_that
from tests.pack import part

TIMEOUT = 1.0  # seconds
MUCH = 512 << 20  # bytes
ANSWER = events("a ", "cat")
EMPTY = b'data: {"choices": [{"delta": {"content": ""}, "finish_reason": null}]}\n\n'


def ask(url: str, timeout: float = TIMEOUT, max_tokens: int = 20) -> str:
    def request(endpoint: Endpoint) -> dict[str, Any]:
        return conversation_request("", "hello", (), 1, 1.0, max_tokens, endpoint)

    return answer(RemoteServer(url, "m", read_timeout=timeout), request, lambda _: None, lambda: False).text


def models(url: str) -> list[str]:
    return list_models(RemoteServer(url, read_timeout=TIMEOUT), lambda: False)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("text/event-stream", EMPTY),
        ("text/event-stream", b": ping\n\n"),
        ("text/event-stream", b"\n"),
        ("text/event-stream", b"x"),
        ("text/event-stream", b"data: null\n\n"),
        ("text/event-stream", b'data: {"usage": {"completion_tokens": 1}}\n\n'),
        ("application/json", b" "),
        ("application/json", b"["),
        ("text/html", b"<p>"),
    ],
)
def test_a_server_that_trickles_is_left(kind: str, line: bytes) -> None:
    gone = threading.Event()
    with server_that(drip(kind, line, gone)) as url:
        said = left(url)
        assert gone.wait(60), "the connection is closed"
    assert re.search(r"sent [\d,]+ bytes in [\d.]+ seconds, but nothing of an answer for the last 1\b", said)


def test_a_server_that_trickles_its_headers_is_left() -> None:
    gone = threading.Event()
    with server_that(trickled_headers(gone)) as url:
        assert "sent nothing for 1 seconds" in left(url)
        assert gone.wait(60)


def left(url: str) -> str:
    """The message of the error for a server that takes too long."""
    with pytest.raises(LanguageModelError, match="Raise timeout") as error:
        ask(url)
    return str(error.value)


def trickled_headers(gone: threading.Event) -> Respond:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while not gone.wait(0.02):
                handler.wfile.write(b"X-A: b\r\n")
        except OSError:
            gone.set()

    return respond


def test_an_answer_that_never_ends_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words come all the time: what bounds them is the time for as many tokens as were allowed."""
    monkeypatch.setattr("native.llm.chat._SECONDS_PER_TOKEN", 0.02)
    gone = threading.Event()
    with server_that(endless("word ", gone)) as url:
        with pytest.raises(LanguageModelError, match=r"sent [\d,]+ bytes in [\d.]+ seconds and did not come to an end"):
            ask(url)
        assert gone.wait(60)


def test_a_slow_answer_that_goes_on_is_waited_for() -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        begin(handler)
        for word in range(12):
            handler.wfile.write(events(f"{word}", end=False).encode())
            time.sleep(0.2)
        handler.wfile.write(events().encode())

    with server_that(slow) as url:
        assert ask(url, 2.0) == "01234567891011"


def test_an_end_without_done_is_the_end() -> None:
    """A server that then keeps the connection, or goes on to say nothing."""
    done = threading.Event()
    end = events("a cat").removesuffix("data: [DONE]\n\n").encode()
    for more in (b"", EMPTY):

        def stays(handler: BaseHTTPRequestHandler, more: bytes = more) -> None:
            begin(handler)
            handler.wfile.write(end)
            while not done.wait(0.05):
                handler.wfile.write(more)

        with server_that(stays) as url:
            assert ask(url, 30.0) == "a cat"
    done.set()


@pytest.mark.parametrize("line", [b" ", b"x"])
def test_a_list_of_models_is_waited_for_no_longer(line: bytes) -> None:
    gone = threading.Event()
    with server_that(lambda _: None, drip("application/json", line, gone)) as url:
        with pytest.raises(LanguageModelError, match=r"sent [\d,]+ bytes in [\d.]+ seconds, but nothing of an answer"):
            models(url)
        assert gone.wait(60)


def test_the_button_and_the_node_wait_no_longer_for_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever timeout the node has for answers; as POST /ggml/language_models does."""
    node = part("nodes.language.server")
    monkeypatch.setattr(node, "LIST_TIMEOUT", TIMEOUT)
    gone = threading.Event()
    with server_that(lambda _: None, drip("application/json", b" ", gone)) as url:
        with pytest.raises(Exception, match=r"nothing of an answer for the last 1\b"):
            node.listed_models(node.server_at(url, "", "", 3600.0))
        assert gone.wait(60)


@pytest.mark.parametrize("get", [models, lambda url: ask(url, 60.0)])
@pytest.mark.parametrize("packing", ["", "gzip", "deflate"])
@pytest.mark.parametrize(
    ("kind", "status"), [("application/json", 200), ("text/event-stream", 200), ("text/html", 500)]
)
def test_a_flood_is_left(get: Callable[[str], object], packing: str, kind: str, status: int) -> None:
    """Half a gigabyte of JSON, of comments or of an error, packed 1000 to 1 or not at all, takes next to no memory."""
    plain = (b'{"data": ["' + b"a" * 4085) if kind == "application/json" else b": " + b"a" * 4093 + b"\n"

    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        if packing:
            handler.send_header("Content-Encoding", packing)
        handler.end_headers()
        packer = zlib.compressobj(wbits=31 if packing == "gzip" else 15)
        block = plain * 256
        try:
            for _ in range(MUCH // len(block)):
                handler.wfile.write(packer.compress(block) if packing else block)
            handler.wfile.write(packer.flush() if packing else b"")
        except OSError:
            pass

    process = psutil.Process()
    before = process.memory_info().rss
    most: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            most.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with server_that(flood, flood) as url, pytest.raises(LanguageModelError) as error:
            get(url)
    finally:
        ended.set()
        watcher.join()
    if status == 200:
        assert re.search(r"sent more than [\d,]+ bytes in [\d.]+ seconds", str(error.value))
    else:
        assert "answered 500" in str(error.value)
    assert max(most) - before < 200 << 20


def test_a_packed_answer_is_read_all_the_same() -> None:
    whole = json.dumps({"choices": [{"message": {"content": "a cat"}, "finish_reason": "stop"}]})

    def packed(handler: BaseHTTPRequestHandler) -> None:
        stream = gzip.compress(ANSWER.encode())
        begin(handler, Content_Encoding="gzip", Content_Length=str(len(stream)))
        handler.wfile.write(stream)

    with server_that(packed) as url:
        assert ask(url, 20.0) == "a cat"

    def whole_and_packed(handler: BaseHTTPRequestHandler) -> None:
        begin(handler, "application/json", Content_Encoding="deflate")
        handler.wfile.write(zlib.compress(whole.encode()))

    with server_that(whole_and_packed) as url:
        assert ask(url, 20.0) == "a cat"


@pytest.mark.parametrize(("encoding", "message"), [("br", "encoding 'br'"), ("gzip", "damaged gzip stream")])
def test_an_answer_that_cannot_be_unpacked_is_said(encoding: str, message: str) -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        begin(handler, Content_Encoding=encoding)
        handler.wfile.write(b"\x01\x02" * 30)

    with server_that(respond) as url, pytest.raises(LanguageModelError, match=message):
        ask(url, 20.0)


def test_a_long_list_of_models_is_whole() -> None:
    names = [f"model-{number}" for number in range(4000)]
    body = json.dumps({"data": [{"id": name, "description": "x" * 200} for name in names]})
    assert len(body) < MAX_BODY
    with server_that(lambda _: None, lambda handler: send(handler, 200, body)) as url:
        assert list_models(RemoteServer(url), lambda: False) == names
