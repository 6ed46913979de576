"""The HTTP routes of this pack: plans, conversion, hardware profiles, devices, health, models of language servers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from aiohttp import web

from ...native.client import RunnerError, shared
from ...native.llm.model import LanguageModelError
from ...native.planning import ProfileError, described_machine, plan_json, profile_of
from ...native.weights import WeightFileError
from ..conversion.convert import convert
from ..conversion.editor import convert_workflow
from ..language.server import LIST_TIMEOUT, listed_models, server_at
from ..loaders.device_inputs import devices
from ..planner.planner import PlanResult, RequestGone, beside_execution, make_plan
from ..planner.request import MODES, REJECT, THIS_MACHINE, RequestError, profiles, request_of
from ..planner.walk import prompt_fault

_NUMBERS = ("gpu_budget", "ram_budget", "unknown_width", "unknown_height", "unknown_batch")


def add_routes(routes: web.RouteTableDef) -> None:
    """Adds POST /ggml/plan, /ggml/convert, /ggml/language_models, GET /ggml/profiles, /ggml/devices, /ggml/health."""
    routes.post("/ggml/plan")(_plan)
    routes.post("/ggml/convert")(_convert)
    routes.post("/ggml/language_models")(_language_models)
    routes.get("/ggml/profiles")(_profiles)
    routes.get("/ggml/devices")(_devices)
    routes.get("/ggml/health")(_health)


async def _plan(request: web.Request) -> web.Response:
    """POST /ggml/plan: the plan of {"prompt": API-format prompt, "profile": name or description, planner inputs}."""
    body = await _body(request)
    if isinstance(body, web.Response):
        return body
    if fault := prompt_fault(body.get("prompt")):
        return _bad_request(fault)
    if not all(type(body.get(name, 0)) is int and body.get(name, 0) >= 0 for name in _NUMBERS):
        return _bad_request(f"{', '.join(_NUMBERS)} are whole numbers; budgets are MiB, 0 for what is free")
    if body.get("mode", REJECT) not in MODES:
        return _bad_request(f"mode is one of {', '.join(MODES)}")

    if not isinstance(body.get("convert", False), bool):
        return _bad_request("convert is true or false")
    conversion: dict[str, Any] = {}
    if body.get("convert"):
        body["prompt"], report = await asyncio.to_thread(convert, body["prompt"])
        conversion = {"conversion": report.to_json()}

    def gone() -> bool:  # an editor whose graph has changed drops its request
        return request.transport is None or request.transport.is_closing()

    try:
        result = await asyncio.to_thread(beside_execution, lambda: _plan_of(body, gone))
    except RequestGone:
        return _bad_request("nobody waits for this plan any more")
    except FileNotFoundError as error:
        return web.json_response({"error": str(error)}, status=404)
    except (WeightFileError, RequestError, ProfileError, RunnerError) as error:
        return _bad_request(f"{error}")
    except Exception as error:  # of a malformed prompt
        return _bad_request(f"the workflow cannot be planned: {type(error).__name__}: {error}")
    return web.json_response({**plan_json(result.plan, result.advice), "chosen": result.change, **conversion})


async def _convert(request: web.Request) -> web.Response:
    """POST /ggml/convert: {"workflow": of ComfyUI's editor} or {"prompt": in API format} with loaders of this pack.

    Nothing runs and nothing is saved. Answers {"workflow" or "prompt", "converted", "kept"}.
    """
    body = await _body(request)
    if isinstance(body, web.Response):
        return body
    workflow = body.get("workflow")
    if isinstance(workflow, dict):
        try:
            graph, report = await asyncio.to_thread(convert_workflow, workflow)
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # of a damaged one
            return _bad_request(f"the workflow cannot be converted: {type(error).__name__}: {error}")
        return web.json_response({"workflow": graph, **report.to_json()})
    if fault := prompt_fault(body.get("prompt")):
        return _bad_request(fault)
    prompt, report = await asyncio.to_thread(convert, body["prompt"])
    return web.json_response({"prompt": prompt, **report.to_json()})


def _plan_of(body: dict[str, Any], gone: Callable[[], bool]) -> PlanResult:
    profile = body.get("profile")
    described = isinstance(profile, dict)
    plan_request = request_of({**body, "hardware": THIS_MACHINE if described or profile is None else profile})
    if described:
        plan_request = replace(plan_request, profile=profile_of(profile))
    return make_plan(body["prompt"], plan_request, gone=gone)


async def _profiles(_request: web.Request) -> web.Response:
    """GET /ggml/profiles: the profiles' names, and this machine's description, for POST /ggml/plan elsewhere."""
    try:
        this = described_machine(await asyncio.to_thread(devices), sys.platform)
        return web.json_response({"profiles": list(profiles()), "this_machine": this})
    except (RunnerError, ProfileError) as error:
        return web.json_response({"error": str(error)}, status=503)


async def _devices(_request: web.Request) -> web.Response:
    """GET /ggml/devices: the devices of this machine; sizes in bytes."""
    try:
        present = await asyncio.to_thread(devices)
    except RunnerError as error:
        return web.json_response({"error": str(error)}, status=503)
    return web.json_response({"devices": [asdict(device) for device in present]})


async def _health(_request: web.Request) -> web.Response:
    """GET /ggml/health: whether the runner runs (it is not started for this), and its memory in bytes."""
    runner = shared()
    memory: dict[str, Any] | None = None
    if runner.pid is not None:
        try:
            memory = asdict(await asyncio.to_thread(runner.memory))
        except RunnerError as error:
            return web.json_response({"runner": "lost", "error": str(error)}, status=503)
    return web.json_response({"runner": "idle" if memory is None else "running", "memory": memory})


async def _language_models(request: web.Request) -> web.Response:
    """POST /ggml/language_models: the models that the server of {"url", "key_variable"} lists."""
    body = await _body(request)
    if isinstance(body, web.Response):
        return body
    url, variable = body.get("url"), body.get("key_variable", "")
    if not isinstance(url, str) or not isinstance(variable, str):
        return _bad_request('the body must be {"url": the address of a server}')
    try:
        server = server_at(url, "", variable, LIST_TIMEOUT)
        return web.json_response({"models": await asyncio.to_thread(listed_models, server)})
    except LanguageModelError as error:
        return _bad_request(f"{error}")


async def _body(request: web.Request) -> dict[str, Any] | web.Response:
    """The JSON object of a request, {} for JSON of another kind; the response to a body that is not JSON."""
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:
        return _bad_request(f"the body is not JSON: {error}")
    return body if isinstance(body, dict) else {}


def _bad_request(message: str) -> web.Response:
    return web.json_response({"error": message}, status=400)
