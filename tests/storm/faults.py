"""Faults that strike a server while it works, and the errors that each may cause."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psutil

from tests.comfy_server import Client, Workflow, changed
from tests.faults.damage import damage_bytes
from tests.language_servers import Respond, events, send

CHILDREN = ("native.runner", "native.llm")
RUNNER_TIMEOUT = 60.0  # seconds without a sign of progress
PLANNING_LIMIT = 120.0  # seconds for the answer of /ggml/plan on a machine that is busy
ENDED = r"ended twice|ended while|could not be started|connection|closed"
MEMORY = r"MiB|memory|Memory|allocate"


@dataclass(frozen=True)
class Scene:
    """A server, its model folder and the job that runs, for a fault to strike by chance."""

    client: Client
    models: Path
    job: Workflow
    chance: random.Random


_choosing = threading.Lock()  # of files; faults strike at one time
Strike = Callable[[Scene], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """Strikes on entry, is over on exit.

    causes: a pattern that every error it may lead to holds, where `{file}` is the name of a file of the job.
    weight: how often it comes beside others.
    """

    strike: Strike
    causes: str
    weight: float = 1.0


def children(client: Client) -> list[psutil.Process]:
    """The server's own processes that compute: runners and language models."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(client.server.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if any(name in " ".join(child.cmdline()) for name in CHILDREN):
                    found.append(child)
    return found


def _sends(name: str) -> Strike:
    """A signal to one of the children, whichever."""
    number = getattr(signal, name, signal.SIGTERM)

    @contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        if alive := children(scene.client):
            with suppress(psutil.NoSuchProcess):
                scene.chance.choice(alive).send_signal(number)
        yield

    return strike


@contextmanager
def _stops(scene: Scene) -> Iterator[None]:
    """A child is stopped for some seconds, as a debugger or a suspended machine does."""
    alive = children(scene.client)
    stopped = scene.chance.choice(alive) if alive else None
    for sign in (signal.SIGSTOP, signal.SIGCONT):
        if stopped:
            with suppress(psutil.NoSuchProcess):
                stopped.send_signal(sign)
        if sign == signal.SIGSTOP:
            time.sleep(scene.chance.uniform(0.5, 4))
    yield


@contextmanager
def _stops_for_good(scene: Scene) -> Iterator[None]:
    """The runner hangs, as with a driver that never answers, until its client loses patience."""
    runner = scene.client.runner()
    if runner:
        with suppress(psutil.NoSuchProcess):
            runner.suspend()
    yield
    if runner:
        with suppress(psutil.NoSuchProcess):
            runner.resume()


@contextmanager
def _leaves_no_memory(scene: Scene) -> Iterator[None]:
    """The runner gets hardly any memory beyond what it holds."""
    runner = scene.client.runner()
    before: tuple[int, int] | None = None
    if runner:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            held = runner.memory_info().vms
            before = resource.prlimit(runner.pid, resource.RLIMIT_AS)
            resource.prlimit(runner.pid, resource.RLIMIT_AS, (held + scene.chance.randrange(1 << 24), before[1]))
    yield
    if runner and before:
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            resource.prlimit(runner.pid, resource.RLIMIT_AS, before)


@contextmanager
def _fills_the_disk(scene: Scene) -> Iterator[None]:
    """ComfyUI cannot write files of more than some bytes."""
    process = scene.client.server.process.pid
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (scene.chance.randrange(4096), before[1]))
    yield
    with suppress(ProcessLookupError):
        resource.prlimit(process, resource.RLIMIT_FSIZE, before)


@contextmanager
def _model_file(scene: Scene) -> Iterator[Path]:
    """One of the job's files that no other fault has at the time; whatever becomes of it within, it is put back."""
    names = {value for node in scene.job.values() for value in node["inputs"].values() if isinstance(value, str)}
    with _choosing:
        free = [file for file in scene.models.rglob("*") if file.name in names and not _kept(file).exists()]
        file = scene.chance.choice(sorted(free))
        shutil.copy2(file, _kept(file))
    try:
        yield file
    finally:
        os.replace(_kept(file), file)


def _kept(file: Path) -> Path:
    return file.with_name(file.name + ".kept")


@contextmanager
def _takes_a_file(scene: Scene) -> Iterator[None]:
    with _model_file(scene) as file:
        file.unlink()
        yield


def _comes_instead(changed: Callable[[bytes, random.Random], bytes]) -> Strike:
    """Another file comes in the place of one of the job's, with what `changed` makes of its content."""

    @contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        with _model_file(scene) as file:
            other = file.with_name(file.name + ".other")
            other.write_bytes(changed(file.read_bytes(), scene.chance))
            os.replace(other, file)
            yield

    return strike


def _with_damaged_header(content: bytes, chance: random.Random) -> bytes:
    """Of the header alone: damaged weights nobody could notice."""
    size = min(len(content) // 2, 2000)
    return damage_bytes(content[:size], chance) + content[size:]


def _cut_off(content: bytes, chance: random.Random) -> bytes:
    """As a broken download is."""
    return content[: chance.randrange(len(content))]


@contextmanager
def _cuts_a_mapped_file(scene: Scene) -> Iterator[None]:
    """The file itself is cut off while it may be mapped, as by a download that begins anew."""
    with _model_file(scene) as file:
        os.truncate(file, scene.chance.randrange(file.stat().st_size))
        yield


@contextmanager
def _interrupts(scene: Scene) -> Iterator[None]:
    post(scene.client, "/interrupt", {})
    yield


@contextmanager
def _frees(scene: Scene) -> Iterator[None]:
    post(scene.client, "/free", {"unload_models": True, "free_memory": True})
    yield


@contextmanager
def _plans(scene: Scene) -> Iterator[None]:
    """Plans of all sizes are asked for meanwhile; raises AssertionError for an answer that is none."""
    over = threading.Event()
    faults: list[str] = []

    def plan(seed: int) -> None:
        chance = random.Random(seed)
        while not over.is_set():
            status, answer = post(scene.client, "/ggml/plan", {"prompt": _resized(scene.job, chance)}, PLANNING_LIMIT)
            if status not in (200, 400) or (status == 200 and "phases" not in answer):
                faults.append(f"/ggml/plan answered {status}: {str(answer)[:300]}")

    threads = [threading.Thread(target=plan, args=(scene.chance.random(),), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join(PLANNING_LIMIT)
    assert not faults, faults[0]
    assert not any(thread.is_alive() for thread in threads), "/ggml/plan does not answer"


def _resized(job: Workflow, chance: random.Random) -> Workflow:
    if not any(node["class_type"] == "EmptySD3LatentImage" for node in job.values()):
        return job
    size = {"width": 16 * chance.randint(1, 128), "height": 16 * chance.randint(1, 128)}
    return changed(job, {"EmptySD3LatentImage": {**size, "batch_size": chance.choice((1, 1, 2, 8))}})


def post(client: Client, path: str, body: Mapping[str, Any], limit: float = 60.0) -> tuple[int, Any]:
    """The status and the JSON, or text, of an answer; status 0 where none came."""
    content = json.dumps(body).encode()
    request = urllib.request.Request(client.server.url + path, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=limit) as reply:
            status, text = reply.status, reply.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    except OSError as error:
        return 0, str(error)
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text.decode(errors="replace")


# A LoRA that is cut off after its prompt was checked: core's own loader reads it, in words of the library.
_CUT_OFF = r"{file}|LoraLoader\w*: .*file not fully covered"
FAULTS: Mapping[str, Fault] = {
    "a child is killed": Fault(_sends("SIGKILL"), ENDED),
    "a child aborts": Fault(_sends("SIGABRT"), ENDED),
    "a child faults": Fault(_sends("SIGSEGV"), ENDED),
    "a child is stopped": Fault(_stops, ENDED),
    "the runner hangs": Fault(_stops_for_good, ENDED, weight=0.25),  # takes RUNNER_TIMEOUT
    "no memory": Fault(_leaves_no_memory, f"{MEMORY}|{ENDED}"),
    "a full disk": Fault(_fills_the_disk, r"File too large|No space"),
    "a file vanishes": Fault(_takes_a_file, "{file}"),
    "a damaged file": Fault(_comes_instead(_with_damaged_header), "{file}"),
    "a file cut off": Fault(_comes_instead(_cut_off), _CUT_OFF),
    "a mapped file cut off": Fault(_cuts_a_mapped_file, _CUT_OFF),
    "an interrupt": Fault(_interrupts, ""),
    "memory freed": Fault(_frees, ""),
    "plans meanwhile": Fault(_plans, ""),
}


def hostile(chance: random.Random) -> Respond:
    """A language server that answers each request in another wrong way."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        with suppress(OSError):
            chance.choice(_ANSWERS)(handler)

    return respond


def _breaks_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    handler.wfile.write(events("{", end=False).encode())
    handler.connection.close()


_ANSWERS: tuple[Respond, ...] = (
    _breaks_off,
    lambda handler: send(handler, 500, "Internal Server Error"),
    lambda handler: send(handler, 404, '{"error": {"message": "no such model"}}'),
    lambda handler: send(handler, 200, ""),
    lambda handler: send(handler, 200, "[" * 50_000),
    lambda handler: send(handler, 200, "null"),
    lambda handler: send(handler, 200, '{"choices": []}'),
    lambda handler: send(handler, 200, "<html></html>", "text/html"),
    lambda handler: send(handler, 200, "data: null\n\ndata: {}\n\ndata: [DONE]\n\n", "text/event-stream"),
    lambda handler: send(handler, 200, events("no JSON at all"), "text/event-stream"),
)
