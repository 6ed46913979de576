"""Makes the plans of prompts, one at a time, and stores them for the node that shows them and the run that follows."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic, sleep, thread_time
from typing import Any, TypeVar

import folder_paths
from comfy.model_management import InterruptProcessingException, interrupt_current_processing, processing_interrupted
from server import PromptServer

from ...native.client import Runner, RunnerError, another
from ...native.engines.dry_run import Recorder
from ...native.heap import trim_heap
from ...native.lru import LRU
from ...native.planning import Advice, Machine, Plan
from ...native.quota import Quota, QuotaExceeded, within
from .advice import Planned, advice
from .device_rates import measure_when_idle
from .request import FIT, PlanRequest, machine_of, request_of
from .search import describe_choice, search
from .unknown import Size
from .walk import Change, Prompt, Walked, inputs_of, walk

Result = TypeVar("Result")
PLANNER = "GGMLMemoryPlanner"  # the node's id
SECONDS, QUOTA_BYTES = 20.0, 320 << 20  # of a plan; with what it makes in passing ComfyUI grows by less than 500 MB
_WAY_OUT = "Make the picture, the video or the prompt smaller, or split the workflow in two."
_STORED = 16  # results
_STORED_BYTES = 64 << 20  # of walks
_POLL = 0.05  # seconds
_SHORT = 0.2  # seconds of work that leave nothing to give back
_LONGEST = 300.0  # seconds that a plan may go on while others wait for it
_LONGEST_NAME = 256  # characters of a file's


class RequestGone(Exception):
    """The client that requested a plan is gone."""


@dataclass(frozen=True)
class PlanResult:
    """The answer to a plan request."""

    plan: Plan
    advice: tuple[Advice, ...]  # changes with which the workflow would fit
    change: Change  # the inputs that the mode `fit` sets
    choice: str = ""  # that change in words


@dataclass(frozen=True)
class _Walk:
    """A recorded walk of a prompt, which can be dry-run again with other capacities."""

    recorder: Recorder
    outcome: Walked
    files: list[tuple[str, int, int]]  # path, bytes, mtime in ns, at the time of the walk


# Plans have a runner of their own, which only dry-runs: the other may be computing for minutes.
_planning = threading.Lock()
_began = 0.0  # of the plan that is being made; monotonic seconds
_runner: Runner | None = None
_results: LRU[str, PlanResult] = LRU(_STORED)
_walks: LRU[Any, _Walk] = LRU(_STORED_BYTES, lambda walk: walk.recorder.nbytes)


def make_plan(
    prompt: Prompt,
    request: PlanRequest,
    targets: Sequence[str] | None = None,
    machine: Machine | None = None,
    gone: Callable[[], bool] = lambda: False,
) -> PlanResult:
    """Plans a prompt and, where it does not fit, looks for changes with which it would.

    targets: the output nodes that run; None for all. machine: replaces that of the request. gone: whether the client
    has left. Raises what the loaders raise for unusable files and devices, RunnerError and RequestGone. A plan that
    takes more than SECONDS or QUOTA_BYTES ends with a gap that says so.
    """
    with _one_at_a_time(gone):
        planned_for, runner, began = machine or machine_of(request), _started(), thread_time()
        if not planned_for.profile:
            measure_when_idle(planned_for.devices, planned_for.rates)

        def planned(candidate: Prompt) -> Plan:
            if gone():
                raise RequestGone
            return _plan(candidate, runner, planned_for, request.unknown, targets)

        try:
            with within(Quota(SECONDS, QUOTA_BYTES)):
                return _result(prompt, request, planned_for, planned)
        except QuotaExceeded as reason:
            stopped = (f"planning was stopped after {reason}. {_WAY_OUT}",)
            return PlanResult(Plan(planned_for, (), None, stopped, stopped), (), {})
        finally:
            if thread_time() - began > _SHORT:
                trim_heap()


@contextmanager
def _one_at_a_time(gone: Callable[[], bool]) -> Iterator[None]:
    """Waits for the plans before this one. Raises RequestGone, and RunnerError where one of them does not end."""
    global _began
    while not _planning.acquire(timeout=1):
        if gone():
            raise RequestGone
        if monotonic() - _began > _LONGEST:
            raise RunnerError(
                f"The plan of another workflow has been going on for {monotonic() - _began:.0f} s, held up in one of "
                "its nodes. Restart ComfyUI if it does not end."
            )
    try:
        _began = monotonic()
        yield
    finally:
        _planning.release()


def planner_request(prompt: Prompt, node: str) -> PlanRequest:
    """The request of a planner node, whose inputs may be linked. Raises what request_of does."""
    inputs = prompt[node]["inputs"]
    linked = any(name not in ("model", "clip", "vae") and isinstance(value, list) for name, value in inputs.items())
    return request_of(inputs_of(prompt, node, machine_of(PlanRequest())) if linked else inputs)


def beside_execution(plan: Callable[[], Result]) -> Result:
    """Runs `plan` beside ComfyUI's executing thread, so that an interruption of the running prompt reaches that one.

    ComfyUI has one flag for interruptions, and any of its layers and nodes clears it on whatever thread it is met. It
    is set again for the running prompt, and the plan is started anew once that has seen it.
    """
    while True:
        try:
            return plan()
        except InterruptProcessingException:
            if _is_executing():
                interrupt_current_processing()
            while processing_interrupted() and _is_executing():
                sleep(_POLL)


def store_result(prompt: Prompt, result: PlanResult) -> None:
    """Stores the plan of a prompt that is about to run."""
    _results.put(_key(prompt), result)


def stored_result(prompt: Prompt) -> PlanResult | None:
    """The plan that was stored for this prompt; None where there is none."""
    return _results.get(_key(prompt))


def _is_executing() -> bool:
    running, _ = PromptServer.instance.prompt_queue.get_current_queue_volatile()
    return bool(running)


def _result(prompt: Prompt, request: PlanRequest, machine: Machine, planned: Planned) -> PlanResult:
    """The plan, with the changes of the mode `fit` or with advice; raises QuotaExceeded."""
    if request.mode == FIT:
        change, plan = search(prompt, machine, planned)
        if plan.shortage is None:
            return PlanResult(plan, (), change, describe_choice(prompt, change))
    plan = planned(prompt)
    if plan.shortage is None:
        return PlanResult(plan, (), {})
    advised: list[Advice] = []
    with suppress(QuotaExceeded):  # what is known stands without what is not
        if request.mode != FIT:  # which has just failed
            advised += _advise_fit(prompt, machine, planned)
        advised += advice(prompt, plan.shortage, planned)
    return PlanResult(plan, tuple(advised), {})


def _started() -> Runner:
    """The runner of plans, whose start takes seconds that no plan should be stopped for."""
    global _runner
    if _runner is None:
        _runner = another()
    if _runner.pid is None:
        _runner.devices()
    return _runner


def _advise_fit(prompt: Prompt, machine: Machine, planned: Planned) -> list[Advice]:
    """The advice to use the mode `fit`, where that finds a change."""
    change, plan = search(prompt, machine, planned)
    if plan.shortage is not None or not change:
        return []
    return [Advice(f"mode fit, which chooses {describe_choice(prompt, change)}", change, plan.peaks)]


def _plan(
    prompt: Prompt, runner: Runner, machine: Machine, unknown: Size, targets: Sequence[str] | None
) -> Plan:  # fmt: skip
    """The plan of a prompt. Walking a prompt takes longer than the dry run of what it records, so walks are stored."""
    devices = tuple((device.name, device.type, device.description) for device in machine.devices)
    measured = tuple((name, rates.source, rates.date) for name, rates in machine.rates.items())
    key = _key(prompt), devices, measured, unknown, None if targets is None else tuple(targets)
    stored = _walks.get(key)
    if stored and stored.recorder.runner is runner and _files(prompt) == stored.files:
        plan = stored.recorder.plan(stored.outcome.notes, stored.outcome.gaps, machine)
        if plan is not None:
            return plan
    recorder = Recorder(runner, machine)
    files = _files(prompt)
    outcome = walk(prompt, recorder, unknown, targets)
    _walks.put(key, _Walk(recorder, outcome, files))
    plan = recorder.plan(outcome.notes, outcome.gaps)
    assert plan is not None  # the capacities are those of the walk
    return plan


def _files(prompt: Prompt) -> list[tuple[str, int, int]]:
    """The files that a prompt names, as they are now: path, bytes, mtime in ns."""
    texts = {
        value
        for node in prompt.values()
        if isinstance(node, Mapping) and isinstance(node.get("inputs"), Mapping)
        for value in node["inputs"].values()
        if isinstance(value, str) and len(value) < _LONGEST_NAME and os.path.splitext(value)[1]
    }
    found = []
    for path in sorted({path for text in texts for path in _paths(text)}):
        with suppress(OSError):  # gone meanwhile
            now = os.stat(path)
            found.append((path, now.st_size, now.st_mtime_ns))
    return found


def _paths(name: str) -> Iterator[str]:
    """The files that a loader could mean by a name."""
    with suppress(OSError, ValueError):
        if folder_paths.exists_annotated_filepath(name):
            yield folder_paths.get_annotated_filepath(name)
        for folder in list(folder_paths.folder_names_and_paths):
            path = folder_paths.get_full_path(folder, name)
            if path is not None:
                yield path


def _key(prompt: Prompt) -> str:
    """A key that ComfyUI's validation does not change, which adds entries beside a node's inputs."""
    nodes: dict[str, tuple[Any, Any]] = {
        str(node): (described.get("class_type"), described.get("inputs"))
        for node, described in prompt.items()
        if isinstance(described, Mapping)
    }
    return repr(sorted(nodes.items()))
