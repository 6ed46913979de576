"""This pack's routes: what they answer to bodies of any kind, and to requests that ComfyUI would not serve."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from random import Random
from typing import Any

import pytest

from tests.comfy_server import Client, changed, workflow
from tests.e2e import hostile_requests as hostile
from tests.language_servers import send, server_that

PLAN, MODELS, PROMPT = "/ggml/plan", "/ggml/language_models", "/prompt"
GETS = ("/ggml/devices", "/ggml/health", "/ggml/profiles")
BODIES = int(os.environ.get("HOSTILE_BODIES", 25))  # of each route
PYTHON = re.compile(r"\b[A-Z]\w*(?:Error|Exception|Interrupt)\b|Traceback|<class|object at 0x|NoneType|'\w+' object")


def answer(client: Client, path: str, body: bytes | None, **headers: str) -> tuple[int, bytes]:
    """Status and content."""
    named = {"Content-Type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(client.server.url + path, body, named), timeout=120
        ) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def fault(client: Client, path: str, body: bytes) -> str:
    """The fault of the answer to a body; "" for an answer with a sentence."""
    status, content = answer(client, path, body)
    if status >= 500:
        return f"{status}: {content[:200]!r}"
    told = json.loads(content)
    if status == 200:
        return ""
    error = told["error"]
    sentence = error if isinstance(error, str) else f"{error['message']} {error['details']}"
    found = PYTHON.search(sentence)
    if found or not sentence.strip() or (len(sentence) > 5000 and path != PROMPT):  # ComfyUI's own are of any length
        return f"{status}: says {sentence[:300]!r}"
    return ""


def planned(**inputs: Any) -> dict[str, Any]:
    """A workflow with a planner that refuses it."""
    graph = changed(workflow("text_to_image"), {"EmptySD3LatentImage": {"width": 64, "height": 64}})
    planner = {"mode": "reject", "hardware": "this machine", "gpu_budget": 1, "ram_budget": 1, **inputs}
    return {**graph, "plan": {"class_type": "GGMLMemoryPlanner", "inputs": planner}}


@pytest.mark.parametrize("path", [PLAN, MODELS, PROMPT])
def test_no_body_is_answered_with_a_python_error(planning: Client, path: str) -> None:
    chance = Random(f"{path} of today")
    whole = {
        PLAN: {"prompt": planned(), "mode": "fit", "ram_budget": 100, "unknown_width": 64},
        MODELS: {"url": "http://127.0.0.1:9/v1", "key_variable": ""},
        PROMPT: {"prompt": planned()},  # the rest of such a body is ComfyUI's alone
    }[path]
    bodies = [body.encode("latin-1") for body in hostile.NO_JSON]
    bodies += [hostile.text(hostile.hostile(whole, chance)) for _ in range(BODIES)]
    problems = [
        (number, bodies[number][-3000:], said)
        for number in range(len(bodies))
        if (said := fault(planning, path, bodies[number]))
    ]
    planning.send("/queue", {"clear": True})  # what the planner did not refuse
    planning.send("/interrupt", {})
    assert not problems, "\n".join(map(str, problems))
    assert planning.get("/ggml/health")["runner"] in ("idle", "running")


@pytest.mark.parametrize("host", hostile.HOSTS)
def test_hosts_of_any_kind_are_answered(planning: Client, host: str) -> None:
    assert not fault(planning, MODELS, hostile.text({"url": f"http://{host}/v1"}))


@pytest.mark.parametrize("odd", [{}, None, "\ud800", "x" * hostile.LONG])
@pytest.mark.parametrize(
    "node", ["GGMLDiffusionModel", "GGMLTextEncoders", "GGMLVAE", "EmptySD3LatentImage", "KSampler"]
)
def test_an_input_of_any_kind_is_refused_in_words(planning: Client, node: str, odd: Any) -> None:
    name = {"GGMLDiffusionModel": "model_name", "GGMLTextEncoders": "clip_name1", "GGMLVAE": "vae_name",
            "EmptySD3LatentImage": "width", "KSampler": "steps"}[node]  # fmt: skip
    graph = changed(planned(), {node: {name: odd}})
    for path in (PLAN, PROMPT):
        assert not fault(planning, path, hostile.text({"prompt": graph}))


@pytest.mark.parametrize("size", [0, -64, 1, 1 << 40])
def test_sizes_that_cannot_be(planning: Client, size: int) -> None:
    for changes in ({"width": size, "height": size}, {"batch_size": size}):
        graph = changed(planned(), {"EmptySD3LatentImage": changes})
        for path in (PLAN, PROMPT):
            assert not fault(planning, path, hostile.text({"prompt": graph}))
    unknown = dict.fromkeys(("unknown_width", "unknown_height", "unknown_batch"), size)
    assert not fault(planning, PLAN, hostile.text({"prompt": planned(), **unknown}))


def test_300_samplers_in_a_row(planning: Client) -> None:
    graph = hostile.samplers_in_a_row(planned(), 300)
    status, content = answer(planning, PLAN, hostile.text({"prompt": graph}))
    assert status == 200
    assert not json.loads(content)["verdict"].startswith("There is nothing to plan")
    assert not fault(planning, PROMPT, hostile.text({"prompt": graph}))


@pytest.mark.parametrize("path", [PLAN, MODELS])
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "text/json"]
)
def test_a_body_that_any_page_could_send_is_not_read(planning: Client, path: str, kind: str) -> None:
    asked: list[int] = []
    with server_that(lambda _: asked.append(1)) as url:
        status, content = answer(
            planning, path, json.dumps({"url": url, "prompt": planned()}).encode(), Content_Type=kind
        )
    assert status == 415
    assert "application/json" in json.loads(content)["error"]
    assert not asked


@pytest.mark.parametrize(
    ("headers", "served"),
    [
        ({}, True),
        ({"Origin": "http://127.0.0.1"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "http://127.0.0.1:1"}, False),
        ({"Origin": "http://127.0.0.1.evil.example"}, False),
        ({"Sec_Fetch_Site": "cross-site"}, False),
        ({"Sec_Fetch_Site": "same-origin"}, True),
    ],
)
def test_an_origin_that_comfyui_would_not_serve_is_not_served(
    planning: Client, headers: dict[str, str], served: bool
) -> None:
    of_comfyui = answer(planning, "/queue", None, **headers)[0]
    assert (of_comfyui == 200) is served
    for path in GETS:
        assert answer(planning, path, None, **headers)[0] == of_comfyui
    for path in (PLAN, MODELS, PROMPT):
        status, content = answer(planning, path, b'{"prompt": {}}', **headers)
        assert status == (400 if served else 403)
        assert bool(content) is served


@pytest.mark.parametrize(
    "body",
    [
        '{"error": {"message": "the secret"}}',
        '{"data": [{"id": {"the secret": 1}}]}',
        "the secret",
        '{"data": "the secret"}',
        '{"detail": "the secret"}',
    ],
)
@pytest.mark.parametrize("status", [200, 403, 500])
def test_what_another_server_says_is_not_passed_on(planning: Client, body: str, status: int) -> None:
    with server_that(lambda _: None, lists=lambda handler: send(handler, status, body)) as url:
        code, content = answer(planning, MODELS, hostile.text({"url": url}))
    assert code == 400
    assert url in content.decode()
    assert "secret" not in content.decode()
