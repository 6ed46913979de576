"""What the nodes of a run took, held against the plan of its prompt while it runs."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...native.client import OutOfMemory, shared
from ...native.memory import Machine, Peaks, Plan, report
from ..node_text import show_on
from ..watcher import Watcher
from .asked import WARN, Asked, machine_of
from .follow import Prompt
from .make import PLANNER, kept, make_plan

log = logging.getLogger(__name__)

_MIB = 1 << 20
_KEPT = 4  # runs

_runs: OrderedDict[str, dict[str, dict[str, int]]] = OrderedDict()  # prompt id -> node -> device -> bytes


def took(peaks: Mapping[str, int]) -> None:
    """Note what the node that is being executed made the runner hold, and show it where there is a plan."""
    context = get_executing_context()
    if context is None:
        return
    nodes = _runs.setdefault(context.prompt_id, {})
    if len(_runs) > _KEPT:
        _runs.popitem(last=False)
    before = nodes.get(context.node_id, {})
    nodes[context.node_id] = {device: max(nbytes, before.get(device, 0)) for device, nbytes in peaks.items()}
    if nodes[context.node_id] != before:
        _tell(context.node_id, nodes)


def peaks_so_far() -> Peaks:
    """By node, of the run that the calling node belongs to."""
    context = get_executing_context()
    return _runs.get(context.prompt_id, {}) if context else {}


def lacked(error: OutOfMemory) -> str:
    """The error with the plan for what was found free, and what would fit into that."""
    prompt = _running()
    if prompt is None:
        return str(error)
    try:
        made = make_plan(prompt, Asked(WARN), machine=_found(error))
    except Exception as failure:  # the error that is being told counts for more
        log.warning("No plan for what is free now: %s: %s", type(failure).__name__, failure)
        return str(error)
    return f"{error}\nWith what is free now: {report(made.plan, made.advised)}"


WATCHER = Watcher(took, lacked)


def _found(error: OutOfMemory) -> Machine:
    """This machine with as much of the device as the runner got of it; what a driver refused is not there."""
    machine = machine_of(Asked())
    held = {device.name: device.held for device in shared().memory().devices}
    got = held.get(error.device, 0) + min(error.free, error.requested - 1)
    return replace(machine, capacity={**machine.capacity, error.device: got})


def _running() -> Prompt | None:
    """The prompt that ComfyUI executes now."""
    context = get_executing_context()
    server = getattr(PromptServer, "instance", None)
    if context is None or server is None:
        return None
    running, _ = server.prompt_queue.get_current_queue_volatile()
    return next((prompt for _, prompt_id, prompt, *_ in running if prompt_id == context.prompt_id), None)


def _tell(node: str, nodes: Peaks) -> None:
    server = getattr(PromptServer, "instance", None)
    if server is not None and server.client_id is not None:  # for the memory panel of the editor that it came from
        server.send_sync("ggml.measured", {"nodes": nodes}, server.client_id)
    prompt = _running()
    made = kept(prompt) if prompt else None
    if prompt is None or made is None:
        return
    _log(made.plan, node, nodes[node])
    for planner, described in prompt.items():
        if described.get("class_type") == PLANNER:
            show_on(planner, report(made.plan, made.advised, made.chosen, nodes))


def _log(plan: Plan, node: str, measured: Mapping[str, Any]) -> None:
    for phase in plan.phases:
        if phase.node == node:
            for device, nbytes in measured.items():
                planned = phase.peak.get(device, 0)
                if planned or nbytes:
                    log.info(
                        "%s (node %s) on %s: %.0f MiB planned, %.0f measured so far",
                        phase.title, node, device, planned / _MIB, nbytes / _MIB,
                    )  # fmt: skip
