"""What programs ask of this pack over ComfyUI's HTTP API, without running anything."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from aiohttp import web

from ..native.client import RunnerError, shared
from ..native.memory import spoken_plan
from .placement import MIB, devices
from .planner import make_plan


def add_routes(routes: web.RouteTableDef) -> None:
    """POST /ggml/plan, GET /ggml/devices and GET /ggml/health."""
    routes.post("/ggml/plan")(_plan)
    routes.get("/ggml/devices")(_devices)
    routes.get("/ggml/health")(_health)


async def _plan(request: web.Request) -> web.Response:
    """The plan of {"prompt": API-format prompt, "gpu_budget": MiB, "ram_budget": MiB}, budgets as the node has them."""
    try:
        asked = await request.json()
    except ValueError as error:
        return _wrong(f"the body is not JSON: {error}")
    if not isinstance(asked, dict) or not isinstance(asked.get("prompt"), dict):
        return _wrong('the body must be {"prompt": a workflow in API format}')
    budgets = [asked.get(name, 0) for name in ("gpu_budget", "ram_budget")]
    if not all(type(budget) is int and budget >= 0 for budget in budgets):
        return _wrong("gpu_budget and ram_budget are whole numbers of MiB, 0 for what is free")
    gpu, ram = (budget * MIB for budget in budgets)
    try:
        plan, advised = await asyncio.to_thread(make_plan, asked["prompt"], gpu, ram)
    except Exception as error:  # a prompt can be anything
        return _wrong(f"the workflow cannot be planned: {type(error).__name__}: {error}")
    return web.json_response(spoken_plan(plan, advised))


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


def _wrong(message: str) -> web.Response:
    return web.json_response({"error": message}, status=400)
