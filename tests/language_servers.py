"""OpenAI-compatible servers on loopback: a real one, and one that misbehaves as it is told."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from native.llm.server_process import start_child
from native.llm.task import Task

PATIENCE = 60.0  # seconds
MODELS = ["m", "another:8b"]


@contextmanager
def real_server(model: Path, key: str = "the-key-of-a-test") -> Iterator[str]:
    """llama.cpp's server with a model; gives the URL that a user would enter."""
    answers: queue.SimpleQueue[dict[str, int]] = queue.SimpleQueue()
    # llama.cpp forces JSON schemas only without the model's own template (llama.cpp pull request 29066).
    task = Task(str(model), key, "CPU", layers=0, context=4096, threads=1, template=False)
    child = start_child(task, lambda output: answers.put(json.loads(output.readline())), lambda: None)
    try:
        yield f"http://127.0.0.1:{answers.get(timeout=PATIENCE)['port']}/v1"
    finally:
        child.kill()


Respond = Callable[[BaseHTTPRequestHandler], None]


def lists_models(handler: BaseHTTPRequestHandler) -> None:
    """The list of MODELS."""
    send(handler, 200, json.dumps({"data": [{"id": model} for model in MODELS]}))


@contextmanager
def server_that(responds: Respond, lists: Respond = lists_models) -> Iterator[str]:
    """A server that answers every POST by a function, and every GET by another; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            lists(self)

        def do_POST(self) -> None:
            self.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            responds(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def asked(handler: BaseHTTPRequestHandler) -> dict[str, Any]:
    """The body of the POST that a handler is to answer."""
    return handler.asked  # type: ignore[attr-defined]


def send(handler: BaseHTTPRequestHandler, status: int, body: str, kind: str = "application/json") -> None:
    """A whole reply."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body.encode())))
    handler.end_headers()
    handler.wfile.write(body.encode())


def stream(*chunks: Any, end: str = "data: [DONE]\n\n") -> str:
    """Server-sent events of any JSON, with [DONE] at the end unless said otherwise."""
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end


def begin(handler: BaseHTTPRequestHandler, kind: str = "text/event-stream", **headers: str) -> None:
    """The beginning of a reply whose body follows, until the connection is closed."""
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def drip(kind: str, line: bytes, gone: threading.Event, seconds: float = 0.02) -> Respond:
    """A reply of these bytes over and over, until nobody listens: then `gone` is set."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        begin(handler, kind)
        try:
            while not gone.wait(seconds):
                handler.wfile.write(line)
        except OSError:
            gone.set()

    return respond


def events(*texts: str, end: bool = True) -> str:
    """Server-sent events of an answer in parts."""
    parts = [{"choices": [{"delta": {"content": text}, "finish_reason": None}]} for text in texts]
    last = [{"choices": [{"delta": {}, "finish_reason": "stop"}]}] if end else []
    lines = [f"data: {json.dumps(part)}\n\n" for part in [*parts, *last]]
    return "".join([*lines, *(["data: [DONE]\n\n"] if end else [])])


def endless(word: str, gone: threading.Event) -> Respond:
    """An answer of this word over and over, until nobody listens: then `gone` is set."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        try:
            while not gone.wait(0.01):
                handler.wfile.write(events(word, end=False).encode())
        except OSError:
            gone.set()

    return respond
