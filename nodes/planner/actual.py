"""What the nodes of a run took, held against the plan of its prompt while it runs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...native.client import OutOfMemory, shared
from ...native.lru import LRU
from ...native.placement import MIB
from ...native.planning import Machine, Peaks, Plan, report
from ..components.observer import Observer
from ..node_text import show_on
from .planner import PLANNER, kept, make_plan
from .request import WARN, PlanRequest, machine_of
from .walk import Prompt

log = logging.getLogger(__name__)
_KEPT = 4  # runs


@dataclass
class _Run:
    """raw: the most that the runner held while a node ran; nodes: of that what this run's own models took."""

    weights: set[str] = field(default_factory=set)  # digests of those that have been used
    raw: dict[str, dict[str, int]] = field(default_factory=dict)  # node -> device -> bytes
    nodes: dict[str, dict[str, int]] = field(default_factory=dict)


_runs: LRU[str, _Run] = LRU(_KEPT)  # by prompt's id


def on_peak(peaks: Mapping[str, int], weights: str) -> None:
    """Note what the node that is being executed made the runner hold, and show it where there is a plan."""
    context = get_executing_context()
    if context is None:
        return
    run = _runs.get(context.prompt_id) or _runs.put(context.prompt_id, _Run())
    run.weights.add(weights)
    node, before = context.node_id, run.raw.get(context.node_id, {})
    run.raw[node] = {device: max(nbytes, before.get(device, 0)) for device, nbytes in peaks.items()}
    if run.raw[node] != before:
        others = _held_by_others(run.weights)
        run.nodes[node] = {device: nbytes - others.get(device, 0) for device, nbytes in run.raw[node].items()}
        _tell(node, run.nodes)


def _held_by_others(used: set[str]) -> Counter[str]:
    """Bytes by device of models from before this run, which give way where there is no room."""
    models = shared().memory().models
    files = {(model.device, model.files_digest) for model in models if model.digest in used}
    held: Counter[str] = Counter()
    for model in models:
        if model.digest not in used:
            held[model.device] += model.staging + model.arrays + model.constants + model.compute
            if (model.device, model.files_digest) not in files:
                files.add((model.device, model.files_digest))
                held[model.device] += model.weight_bytes
    return held


def peaks_so_far() -> Peaks:
    """By node, of the run that the calling node belongs to."""
    context = get_executing_context()
    run = _runs.get(context.prompt_id) if context else None
    return run.nodes if run else {}


def explain_oom(error: OutOfMemory) -> str:
    """The error with the plan for what was found free, and what would fit into that."""
    prompt = _running()
    if prompt is None:
        return str(error)
    try:
        made = make_plan(prompt, PlanRequest(WARN), machine=_found(error))
    except Exception as failure:  # the error that is being told counts for more
        log.warning("No plan for what is free now: %s: %s", type(failure).__name__, failure)
        return str(error)
    return f"{error}\nWith what is free now: {report(made.plan, made.advised)}"


OBSERVER = Observer(on_peak, explain_oom)


def _found(error: OutOfMemory) -> Machine:
    """This machine with as much of the device as the runner got of it; what a driver refused is not there."""
    machine = machine_of(PlanRequest())
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
                        phase.title, node, device, planned / MIB, nbytes / MIB,
                    )  # fmt: skip
