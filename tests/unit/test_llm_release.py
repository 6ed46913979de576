"""Models on servers leave the memory when another model is about to compute, by each kind of server's own API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from native.llm import server_release
from native.llm.answer import answer
from native.llm.exchange import Endpoint
from native.llm.model import RemoteServer
from native.llm.requests import conversation_request
from native.llm.server_release import release_servers
from tests.language_servers import asked, events, send, server_that
from tests.pack import part

lifetime = part("nodes.components.lifetime")
server_node = part("nodes.language.server")
packed_release = part("native.llm.server_release")
UNEXPECTED = {"error": "Unexpected endpoint or method."}  # LM Studio's answer to whatever it does not know, with 200


@dataclass
class Server:
    """A server with models in memory, that answers as a kind of server does."""

    kind: str
    loaded: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    slow: int = 0  # looks for which a model that was unloaded is still there

    def lists(self, handler: BaseHTTPRequestHandler) -> None:
        """Every GET."""
        self.requests.append(f"GET {handler.path}")
        leaving = self.slow > 0
        self.slow -= leaving
        loaded = self.loaded or (["m"] if leaving else [])
        replies: dict[tuple[str, str], Any] = {
            ("Ollama", "/api/ps"): {"models": [{"name": name, "model": f"{name}:latest"} for name in loaded]},
            ("LM Studio", "/api/v1/models"): {
                "models": [
                    {"key": "m", "loaded_instances": [{"id": f"{name}:2"} for name in loaded]},
                    {"key": "other", "loaded_instances": [{"id": "other"}]},
                ]
            },
            ("llama-server", "/models"): {
                "data": [
                    {"id": "m", "status": {"value": "loaded" if loaded else "unloaded"}},
                    {"id": "other", "status": {"value": "loaded"}},
                ]
            },
            ("one model", "/models"): {"data": [{"id": "m"}]},
        }
        found = replies.get((self.kind, handler.path))
        send(handler, 200 if found or self.kind == "LM Studio" else 404, json.dumps(found or UNEXPECTED))

    def responds(self, handler: BaseHTTPRequestHandler) -> None:
        """Every POST."""
        body = asked(handler)
        if handler.path.endswith("/chat/completions"):
            self.loaded = [body["model"]]
            send(handler, 200, events("a cat"), "text/event-stream")
            return
        self.requests.append(f"POST {handler.path} {json.dumps(body)}")
        self.loaded = []
        send(handler, 200, "{}")


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    """A server of another test may have had the port that one of these gets."""
    for module in (server_release, packed_release):
        module._without_api.clear()
    yield
    for module in (server_release, packed_release):
        module._waiting.clear()


def ask(url: str, release: bool = True, model: str = "m") -> None:
    def request(endpoint: Endpoint) -> dict[str, Any]:
        return conversation_request("", "hello", (), 1, 1.0, 20, endpoint)

    answer(RemoteServer(url, model, read_timeout=20.0, release=release), request, lambda _: None, lambda: False)


UNLOADS = {
    "Ollama": 'POST /api/generate {"model": "m:latest", "keep_alive": 0}',
    "LM Studio": 'POST /api/v1/models/unload {"instance_id": "m:2"}',
    "llama-server": 'POST /models/unload {"model": "m"}',
}


@pytest.mark.parametrize("kind", UNLOADS)
def test_a_model_is_unloaded_once_and_waited_for(kind: str) -> None:
    server = Server(kind)
    with server_that(server.responds, server.lists) as url:
        ask(url)
        assert (server.loaded, server.requests) == (["m"], [])
        server.slow = 2 + list(UNLOADS).index(kind)
        release_servers()
        posts = [each for each in server.requests if each.startswith("POST")]
        assert posts == [UNLOADS[kind]]
        assert server.slow == 0, "its memory is free when this returns"
        asked_so_far = len(server.requests)
        release_servers()
        assert len(server.requests) == asked_so_far
        ask(url)
        release_servers()
        assert server.loaded == []


@pytest.mark.parametrize("kind", UNLOADS)
def test_a_model_that_is_kept_stays(kind: str) -> None:
    server = Server(kind)
    with server_that(server.responds, server.lists) as url:
        ask(url, release=False)
        release_servers()
    assert (server.loaded, server.requests) == (["m"], [])


@pytest.mark.parametrize("kind", ["one model", "none"])
def test_a_server_that_cannot_is_asked_once(kind: str) -> None:
    server = Server(kind)
    with server_that(server.responds, server.lists) as url:
        for _ in range(3):
            ask(url)
            release_servers()
    assert server.requests == ["GET /api/ps", "GET /api/v1/models", "GET /models"]


def test_a_server_that_is_gone_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    server = Server("Ollama")
    with server_that(server.responds, server.lists) as url:
        ask(url)
    release_servers()
    assert "The memory of m is not freed" in caplog.text


def test_another_model_that_computes_has_it_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the nodes have it: GGML Language Server says whether, a component that begins its phase says when."""
    monkeypatch.setattr(server_node, "show", lambda *_: None)
    server = Server("Ollama")
    lifetimes = lifetime.ProcessLifetimes()
    with server_that(server.responds, server.lists) as url:
        for after_use, left in (("release", []), ("keep", ["m"])):
            (model,) = server_node.GGMLLanguageServer.execute(url, "m", "", 20, after_use).result
            part("native.llm.answer").answer(
                model, lambda endpoint: conversation_request("", "hello", (), 1, 1.0, 20, endpoint),
                lambda _: None, lambda: False,
            )  # fmt: skip
            lifetimes.begin_phase(0)
            assert server.loaded == left
