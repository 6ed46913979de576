"""GGML Memory Planner: whether a workflow fits, known before any of it runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from comfy_api.latest import io, ui

from ..native.client import Runner, another, shared
from ..native.memory import Advice, Plan, plan_of, report, verdict
from ..native.rehearsal import Recorder
from .node_text import show
from .placement import MIB, devices
from .plan.advice import advice
from .plan.follow import Part, Prompt, follow
from .plan.picture import picture

log = logging.getLogger(__name__)

NODE = "GGMLMemoryPlanner"
REJECT, WARN = "reject", "warn"
GPU_RESERVE = 512 * MIB  # for the desktop and other programs
RAM_RESERVE = 0.2  # of all of it
_PHASES = {"encode": "Encoding the prompt", "sample": "Sampling", "decode": "Decoding the picture",
           "encode picture": "Encoding the picture"}  # fmt: skip

# Plans are made one at a time, in a runner that only rehearses: the other one may be computing for minutes.
_planning = threading.Lock()
_runner: Runner | None = None


def make_plan(prompt: Prompt, gpu_budget: int = 0, ram_budget: int = 0) -> tuple[Plan, list[Advice]]:
    """What the prompt takes of the devices of this machine and, where it does not fit, what would.

    Budgets in bytes; 0: what is free, less a reserve.
    Raises what the loaders raise for files and devices that cannot be used, and RunnerError.
    """
    with _planning:
        capacity = _capacity(gpu_budget, ram_budget)
        plan = _planned(prompt, capacity)
        return plan, advice(prompt, lambda changed: _planned(changed, capacity)) if plan.shortage else []


def _planned(prompt: Prompt, capacity: Mapping[str, int]) -> Plan:
    global _runner
    if _runner is None:
        _runner = another()
    recorder = Recorder(_runner, capacity)
    notes = follow(prompt, recorder)
    parts = [(part.node, _title(part)) for part in recorder.parts]
    return plan_of(capacity, parts, recorder.rehearsed(), notes)


def _title(part: Part) -> str:
    return _PHASES.get(part.phase, part.class_type)


def _capacity(gpu_budget: int, ram_budget: int) -> dict[str, int]:
    """Bytes of each device that a workflow may take: models that are there make room."""
    found = devices()
    held = {device.name: device.held for device in shared().memory().devices}
    capacity = {}
    for device in found:
        on_cpu = device.type == "CPU"
        reserve = int(RAM_RESERVE * device.total) if on_cpu else GPU_RESERVE
        room = min(device.total, device.free + held.get(device.name, 0)) - reserve
        capacity[device.name] = (ram_budget if on_cpu else gpu_budget) or max(0, room)
    return capacity


class GGMLMemoryPlanner(io.ComfyNode):
    """The node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id=NODE,
            display_name="GGML Memory Planner",
            category="loaders/GGML",
            description="Works out what this workflow takes of the GPU's memory and of RAM before anything is loaded, "
            "and stops it where it does not fit. Put it anywhere in the workflow; it needs no link.",
            search_aliases=["GGUF", "Vulkan", "VRAM", "out of memory", "OOM", "low VRAM", "budget", "RX 580"],
            inputs=[
                io.Combo.Input(
                    "mode", options=[REJECT, WARN], default=REJECT,
                    tooltip="reject: a workflow that does not fit is refused, and nothing of it runs. warn: it runs "
                    "all the same, and the report says what does not fit.",
                ),
                io.Int.Input(
                    "gpu_budget", default=0, min=0, max=1 << 20,
                    tooltip="MiB of each GPU that the workflow may take. 0: what is free, less 512.",
                ),
                io.Int.Input(
                    "ram_budget", default=0, min=0, max=1 << 24,
                    tooltip="MiB of RAM that the workflow may take. 0: what is free, less a fifth of all RAM.",
                ),
            ],
            outputs=[io.String.Output(display_name="report"), io.Image.Output(display_name="chart")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """Never equal to itself: the plan is the whole workflow's."""
        return float("nan")

    @classmethod
    def execute(cls, mode: str, gpu_budget: int, ram_budget: int) -> io.NodeOutput:
        """The report on the workflow that it is in."""
        plan, advised = make_plan(cls.hidden.prompt, gpu_budget * MIB, ram_budget * MIB)
        text = report(plan, advised)
        show(cls, text)
        return io.NodeOutput(text, picture(plan), ui=ui.PreviewText(text))


@web.middleware
async def reject_what_does_not_fit(request: web.Request, handler: Any) -> web.StreamResponse:
    """Answers a posted prompt whose planner says that it does not fit; all else goes on to ComfyUI.

    Its validation of nodes would let the outputs run that hang on none of ours.
    """
    if request.method == "POST" and request.path in ("/prompt", "/api/prompt"):
        prompt = await _posted(request)
        planner = _rejecting(prompt)
        if planner is not None:
            refused = await asyncio.to_thread(_refusal, prompt, planner)
            if refused is not None:
                return web.json_response(refused, status=400)
    return await handler(request)


async def _posted(request: web.Request) -> Prompt:
    try:
        posted = await request.json()
    except ValueError:
        return {}
    prompt = posted.get("prompt") if isinstance(posted, dict) else None
    return prompt if isinstance(prompt, dict) else {}


def _rejecting(prompt: Prompt) -> Mapping[str, Any] | None:
    """The inputs of the first planner that rejects."""
    for node in prompt.values():
        inputs = node.get("inputs") if isinstance(node, dict) and node.get("class_type") == NODE else None
        if isinstance(inputs, dict) and inputs.get("mode") == REJECT:
            return inputs
    return None


def _refusal(prompt: Prompt, planner: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer to a prompt that does not fit, which ComfyUI's front end shows on every node of this pack in it.

    None where it fits, or has faults that ComfyUI tells of itself.
    """
    budgets = [planner.get(name, 0) for name in ("gpu_budget", "ram_budget")]
    gpu, ram = (value * MIB if isinstance(value, int) and value > 0 else 0 for value in budgets)
    try:
        plan, advised = make_plan(prompt, gpu, ram)
    except Exception as error:  # a prompt can be anything
        log.warning("The memory planner leaves this workflow to ComfyUI: %s: %s", type(error).__name__, error)
        return None
    if plan.shortage is None:
        return None
    said = {"message": verdict(plan), "details": report(plan, advised), "extra_info": {}}
    fault = {"type": "ggml_does_not_fit", **said}
    types = {node: str(made["class_type"]) for node, made in prompt.items() if isinstance(made, dict)}
    return {
        "error": fault,
        "node_errors": {
            node: {"errors": [fault], "dependent_outputs": [], "class_type": class_type}
            for node, class_type in types.items()
            if class_type.startswith("GGML")
        },
    }
