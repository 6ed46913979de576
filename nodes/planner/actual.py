"""The actual memory peaks of the nodes of a run, compared with the plan of its prompt while it runs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from comfy_execution.utils import get_executing_context
from server import PromptServer

from ...native.client import OutOfMemory, shared
from ...native.lru import LRU
from ...native.placement import MIB
from ...native.planning import Machine, Peaks, Plan, report
from ..components.host import Observer
from ..node_text import show_on
from .planner import PLANNER, make_plan, stored_result
from .request import WARN, PlanRequest, machine_of
from .walk import Prompt

log = logging.getLogger(__name__)
_STORED = 4  # runs


@dataclass
class _Run:
    """The peaks of a run: node id -> device -> bytes."""

    weights: set[str] = field(default_factory=set)  # digests of the weights that it has used
    totals: dict[str, dict[str, int]] = field(default_factory=dict)  # of all that the runner held
    own: dict[str, dict[str, int]] = field(default_factory=dict)  # of the models that this run uses


_runs: LRU[str, _Run] = LRU(_STORED)  # by prompt id


def on_peak(peaks: Mapping[str, int], weights: str) -> None:
    """Records the runner's peak during the executing node, and shows it where the prompt has a plan.

    peaks: bytes by device. weights: digest of the weights in use.
    """
    context = get_executing_context()
    if context is None:
        return
    run = _runs.get(context.prompt_id) or _runs.put(context.prompt_id, _Run())
    run.weights.add(weights)
    node, before = context.node_id, run.totals.get(context.node_id, {})
    run.totals[node] = {device: max(nbytes, before.get(device, 0)) for device, nbytes in peaks.items()}
    if run.totals[node] != before:
        others = _held_by_others(run.weights)
        run.own[node] = {device: nbytes - others.get(device, 0) for device, nbytes in run.totals[node].items()}
        _show(node, run.own)


def _held_by_others(used: set[str]) -> Counter[str]:
    """Bytes by device of models that this run does not use; they are evicted when memory is short."""
    models = shared().memory().models
    counted = {(model.device, model.files_digest) for model in models if model.digest in used}
    held: Counter[str] = Counter()
    for model in models:
        if model.digest not in used:
            held[model.device] += model.staging + model.arrays + model.constants + model.compute
            if (model.device, model.files_digest) not in counted:
                counted.add((model.device, model.files_digest))
                held[model.device] += model.weight_bytes
    return held


def peaks_so_far() -> Peaks:
    """The peaks of the run that the calling node belongs to."""
    context = get_executing_context()
    run = _runs.get(context.prompt_id) if context else None
    return run.own if run else {}


def explain_oom(error: OutOfMemory) -> str:
    """The error's message with a plan for the memory that was free, and advice on what would fit into it."""
    prompt = _executing()
    if prompt is None:
        return str(error)
    try:
        result = make_plan(prompt, PlanRequest(WARN), machine=_machine_at(error))
    except Exception as failure:  # the original error matters more
        log.warning("No plan for what is free now: %s: %s", type(failure).__name__, failure)
        return str(error)
    return f"{error}\nWith what is free now: {report(result.plan, result.advice)}"


OBSERVER = Observer(on_peak, explain_oom)


def _machine_at(error: OutOfMemory) -> Machine:
    """This machine with the capacity that the runner got of the device; refused memory does not count."""
    machine = machine_of(PlanRequest())
    held = {device.name: device.held for device in shared().memory().devices}
    capacity = held.get(error.device, 0) + min(error.free, error.requested - 1)
    return replace(machine, capacity={**machine.capacity, error.device: capacity})


def _executing() -> Prompt | None:
    """The prompt that ComfyUI executes now; None outside of its executing thread."""
    context = get_executing_context()
    server = getattr(PromptServer, "instance", None)
    if context is None or server is None:
        return None
    running, _ = server.prompt_queue.get_current_queue_volatile()
    return next((prompt for _, prompt_id, prompt, *_ in running if prompt_id == context.prompt_id), None)


def _show(node: str, nodes: Peaks) -> None:
    server, prompt = getattr(PromptServer, "instance", None), _executing()
    if server is not None and server.client_id is not None:  # for the memory panel of the editor that it came from
        graph = {each: described.get("class_type") for each, described in (prompt or {}).items()}
        server.send_sync("ggml.measured", {"nodes": nodes, "graph": graph}, server.client_id)
    result = stored_result(prompt) if prompt else None
    if prompt is None or result is None:
        return
    _log(result.plan, node, nodes[node])
    for planner, described in prompt.items():
        if described.get("class_type") == PLANNER:
            show_on(planner, report(result.plan, result.advice, result.choice, nodes))


def _log(plan: Plan, node: str, actual: Mapping[str, int]) -> None:
    for phase in plan.phases:
        if phase.node == node:
            for device, nbytes in actual.items():
                planned = phase.peak.get(device, 0)
                if planned or nbytes:
                    log.info(
                        "%s (node %s) on %s: %.0f MiB planned, %.0f measured so far",
                        phase.title, node, device, planned / MIB, nbytes / MIB,
                    )  # fmt: skip
