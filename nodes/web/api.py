"""What programs ask of this pack over ComfyUI's HTTP API, without running anything."""

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
from ..language.server import LIST_TIMEOUT, listed_models, server_at
from ..loaders.device_inputs import devices
from ..planner.interruption import beside_what_runs
from ..planner.planner import MadePlan, NobodyAsks, make_plan
from ..planner.request import MODES, REJECT, THIS_MACHINE, profiles, request_of

_NUMBERS = ("gpu_budget", "ram_budget", "unknown_width", "unknown_height", "unknown_batch")


def add_routes(routes: web.RouteTableDef) -> None:
    """POST /ggml/plan and /ggml/language_models, GET /ggml/profiles, /ggml/devices and /ggml/health."""
    routes.post("/ggml/plan")(_plan)
    routes.post("/ggml/language_models")(_language_models)
    routes.get("/ggml/profiles")(_profiles)
    routes.get("/ggml/devices")(_devices)
    routes.get("/ggml/health")(_health)


async def _plan(request: web.Request) -> web.Response:
    """The plan of {"prompt": API-format prompt, "profile": name or description}; the planner node's inputs likewise."""
    try:
        asked = await request.json()
    except ValueError as error:
        return _wrong(f"the body is not JSON: {error}")
    if not isinstance(asked, dict) or not isinstance(asked.get("prompt"), dict):
        return _wrong('the body must be {"prompt": a workflow in API format}')
    if not all(type(asked.get(name, 0)) is int and asked.get(name, 0) >= 0 for name in _NUMBERS):
        return _wrong(f"{', '.join(_NUMBERS)} are whole numbers; budgets are MiB, 0 for what is free")
    if asked.get("mode", REJECT) not in MODES:
        return _wrong(f"mode is one of {', '.join(MODES)}")

    def gone() -> bool:  # as an editor is whose graph has changed meanwhile
        return request.transport is None or request.transport.is_closing()

    try:
        made = await asyncio.to_thread(beside_what_runs, lambda: _made(asked, gone))
    except NobodyAsks:
        return _wrong("nobody waits for this plan any more")
    except FileNotFoundError as error:
        return web.json_response({"error": str(error)}, status=404)
    except Exception as error:  # a prompt can be anything
        return _wrong(f"the workflow cannot be planned: {type(error).__name__}: {error}")
    return web.json_response({**plan_json(made.plan, made.advised), "chosen": made.change})


def _made(asked: dict[str, Any], gone: Callable[[], bool]) -> MadePlan:
    profile = asked.get("profile")
    described = isinstance(profile, dict)
    wanted = request_of({**asked, "hardware": THIS_MACHINE if described or profile is None else profile})
    if described:
        wanted = replace(wanted, profile=profile_of(profile))
    return make_plan(asked["prompt"], wanted, gone=gone)


async def _profiles(_request: web.Request) -> web.Response:
    """The names of the hardware profiles, and this machine's description, which POST /ggml/plan takes elsewhere."""
    try:
        this = described_machine(await asyncio.to_thread(devices), sys.platform)
        return web.json_response({"profiles": list(profiles()), "this_machine": this})
    except (RunnerError, ProfileError) as error:
        return web.json_response({"error": str(error)}, status=503)


async def _devices(_request: web.Request) -> web.Response:
    """The devices of this machine; sizes in bytes."""
    try:
        found = await asyncio.to_thread(devices)
    except RunnerError as error:
        return web.json_response({"error": str(error)}, status=503)
    return web.json_response({"devices": [asdict(device) for device in found]})


async def _health(_request: web.Request) -> web.Response:
    """Whether the runner lives and what it holds; sizes in bytes. It is started by what needs it, not by this."""
    runner = shared()
    held: dict[str, Any] | None = None
    if runner.pid is not None:
        try:
            held = asdict(await asyncio.to_thread(runner.memory))
        except RunnerError as error:
            return web.json_response({"runner": "lost", "error": str(error)}, status=503)
    return web.json_response({"runner": "idle" if held is None else "running", "memory": held})


async def _language_models(request: web.Request) -> web.Response:
    """The models that a server lists: {"url": its address, "key_variable": as the node GGML Language Server has it}."""
    try:
        asked = await request.json()
    except ValueError as error:
        return _wrong(f"the body is not JSON: {error}")
    url, variable = (asked.get("url"), asked.get("key_variable", "")) if isinstance(asked, dict) else (None, None)
    if not isinstance(url, str) or not isinstance(variable, str):
        return _wrong('the body must be {"url": the address of a server}')
    try:
        server = server_at(url, "", variable, LIST_TIMEOUT)
        return web.json_response({"models": await asyncio.to_thread(listed_models, server)})
    except LanguageModelError as error:
        return _wrong(f"{error}")


def _wrong(message: str) -> web.Response:
    return web.json_response({"error": message}, status=400)
