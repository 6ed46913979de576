"""Plans of prompts: made once, kept for the node that shows them and for the run that is held against them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...native.client import Runner, another
from ...native.engines.dry_run import Recorder
from ...native.lru import LRU
from ...native.planning import Advice, Machine, Plan
from ...native.wire.messages import Step
from .advice import advice
from .request import FIT, PlanRequest, machine_of
from .rules import READING
from .search import describe_choice, search
from .unknown import Size
from .walk import Change, Prompt, walk

PLANNER = "GGMLMemoryPlanner"  # the node's id
_KEPT = 16


class NobodyAsks(Exception):
    """Who asked for a plan went away before it was made."""


# Plans are made one at a time, in a runner that only dry-runs: the other one may be computing for minutes.
_planning = threading.Lock()
_runner: Runner | None = None
_made: LRU[str, MadePlan] = LRU(_KEPT)
_followed: LRU[Any, tuple[Recorder, list[str], Any]] = LRU(_KEPT)  # with the files as they were


@dataclass(frozen=True)
class MadePlan:
    """A plan, what would make it fit, and for `fit` what was chosen: inputs to set by node, and words."""

    plan: Plan
    advised: tuple[Advice, ...]
    change: Change
    chosen: str = ""


def make_plan(
    prompt: Prompt,
    request: PlanRequest,
    targets: Sequence[str] | None = None,
    machine: Machine | None = None,
    gone: Callable[[], bool] = lambda: False,
) -> MadePlan:
    """What the prompt takes of the devices it is asked about and, where it does not fit, what would.

    targets: the output nodes that are to run, where not all of them. machine: instead of the one that is asked about.
    gone: whether nobody waits for it any more.
    Raises what the loaders raise for files and devices that cannot be used, RunnerError and NobodyAsks.
    """
    with _planning:
        there = machine or machine_of(request)

        def planned(each: Prompt) -> Plan:
            if gone():
                raise NobodyAsks
            return _planned(each, there, request.unknown, targets)

        if request.mode == FIT:
            change, plan = search(prompt, there, planned)
            if plan.shortage is None:
                return MadePlan(plan, (), change, describe_choice(prompt, change))
        plan = planned(prompt)
        if plan.shortage is None:
            return MadePlan(plan, (), {})
        fitting = [] if request.mode == FIT else _fitting(prompt, there, planned)  # it was just tried
        return MadePlan(plan, (*fitting, *advice(prompt, plan.shortage, planned)), {})


def keep(prompt: Prompt, made: MadePlan) -> None:
    """Remember the plan of a prompt that is about to run."""
    _made.put(_key(prompt), made)


def kept(prompt: Prompt) -> MadePlan | None:
    """The plan that was kept for this prompt."""
    return _made.get(_key(prompt))


def _fitting(prompt: Prompt, machine: Machine, planned: Any) -> list[Advice]:
    change, plan = search(prompt, machine, planned)
    if plan.shortage is not None or not change:
        return []
    return [Advice(f"mode fit, which chooses {describe_choice(prompt, change)}", change, plan.peaks)]


def _planned(prompt: Prompt, machine: Machine, unknown: Size, targets: Sequence[str] | None) -> Plan:
    """NodeTurn a prompt takes longer than dry run what it leads to, so what it led to is kept."""
    global _runner
    if _runner is None:
        _runner = another()
    there = tuple((device.name, device.type, device.description) for device in machine.devices)
    key = _key(prompt), there, unknown, None if targets is None else tuple(targets)
    followed = _followed.get(key)
    if followed and followed[0].runner is _runner and _files(followed[0]) == followed[2]:
        plan = followed[0].plan(followed[1], machine)
        if plan is not None:
            return plan
    recorder = Recorder(_runner, machine)
    notes = walk(prompt, recorder, unknown, targets)
    if not any(isinstance(made, Mapping) and made.get("class_type") in READING for made in prompt.values()):
        _followed.put(key, (recorder, notes, _files(recorder)))
    plan = recorder.plan(notes)
    assert plan is not None  # the capacities are those it was followed with
    return plan


def _files(recorder: Recorder) -> list[tuple[str, int, int]]:
    """The files behind a plan, as they are now."""
    sets = [step.weights for step, _ in recorder.steps if isinstance(step, Step)]
    paths = sorted({path for weights in sets for path, *_ in weights.files})
    return [(path, os.path.getsize(path), os.stat(path).st_mtime_ns) for path in paths]


def _key(prompt: Prompt) -> str:
    """The same for a prompt before and after ComfyUI has validated it, which notes things beside the inputs."""
    nodes = {
        str(node): (made.get("class_type"), made.get("inputs"))
        for node, made in prompt.items()
        if isinstance(made, Mapping)
    }
    return repr(sorted(nodes.items()))
