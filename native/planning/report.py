"""A plan in words, for the person at the node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..placement import MIB
from ..wire.messages import ModelMemory
from .plan import Advice, Phase, Plan

Peaks = Mapping[str, Mapping[str, int]]  # the most that each node took, by device


def report(plan: Plan, advised: Sequence[Advice] = (), chosen: str = "", measured: Peaks | None = None) -> str:
    """What does not fit and what would first, then every phase with its peak on every device.

    chosen: what was settled so that it fits, in words. measured: by node, what phases that have run took.
    """
    return "\n".join(_lines(plan, advised, chosen, measured or {}))


def verdict(plan: Plan) -> str:
    """One sentence: which phase does not fit, where and by how much; or that all fits."""
    lacking = plan.shortage
    if lacking is None:
        return "The workflow fits."
    where = f" by {_mib(lacking.over)} MiB on {lacking.device}" if lacking.over else ""
    return f"{lacking.title} (node {lacking.node}) does not fit{where}."


def shares(phase: Phase, device: str) -> dict[str, int]:
    """The bytes of a phase's peak on a device by what they are; what it freed before its end is told as that."""
    there = [each.memory for each in phase.components if each.memory.device == device]
    files = {model.files_digest: model for model in there}  # which sets may share
    found = {
        "weights": sum(model.weight_bytes for model in files.values()),
        "staging": sum(model.staging for model in there),
        "LoRA": sum(model.arrays for model in there),
        "constants": sum(model.constants for model in there),
        "compute buffer": sum(model.compute for model in there),
        "language model": sum(phase.external.taken.get(device, {}).values()) if phase.external else 0,
    }
    found["freed within the phase"] = max(0, phase.peak.get(device, 0) - sum(found.values()))
    return {what: nbytes for what, nbytes in found.items() if nbytes}


def plan_json(plan: Plan, advised: Sequence[Advice] = ()) -> dict[str, Any]:
    """A plan as JSON; sizes in bytes. Its schema is docs/plan.schema.json."""
    lacking = plan.shortage
    return {
        "fits": lacking is None,
        "verdict": verdict(plan),
        "profile": plan.machine.profile or None,
        "devices": {
            device: {"capacity": nbytes, "peak": plan.peaks[device]} for device, nbytes in plan.capacity.items()
        },
        "phases": [
            {
                "node": phase.node,
                "title": phase.title,
                "devices": {
                    device: {"peak": peak, "shares": shares(phase, device)} for device, peak in phase.peak.items()
                },
                "models": list(_describe_models(phase)),
            }
            for phase in plan.phases
        ],
        "shortage": None if lacking is None else asdict(lacking),
        "advice": [asdict(each) for each in advised],
        "notes": list(plan.notes),
    }


def _describe_models(phase: Phase) -> Iterator[dict[str, Any]]:
    for component in phase.components:
        model = component.memory
        yield {
            "loader": component.loader,
            "name": model.name,
            "device": model.device,
            "bytes": _shares_of(model),
        }
    if phase.external:
        for device, held in phase.external.taken.items():
            taken = {what: nbytes for what, nbytes in held.items() if nbytes}
            yield {"loader": phase.external_loader, "name": phase.external.name, "device": device, "bytes": taken}


def _lines(plan: Plan, advised: Sequence[Advice], chosen: str, measured: Peaks) -> Iterator[str]:
    yield verdict(plan)
    if chosen:
        yield chosen
    for each in advised:
        taken = ", ".join(f"{_mib(nbytes)} MiB of {device}" for device, nbytes in each.peaks.items() if nbytes)
        yield f"It fits with {each.words}; that takes {taken}."
    if plan.shortage:
        yield plan.shortage.message
    if plan.machine.profile:
        yield f"Planned for {plan.machine.profile}"
    for device, nbytes in plan.peaks.items():
        if nbytes:
            yield f"{device}: at most {_mib(nbytes)} of {_mib(plan.capacity[device])} MiB"
    for phase in plan.phases:
        yield f"{phase.title} (node {phase.node})"
        for device, nbytes in phase.peak.items():
            if nbytes:
                took = measured.get(phase.node, {}).get(device)
                yield f"  {device}: {_mib(nbytes)} MiB" + ("" if took is None else f" planned, {_mib(took)} measured")
        for component in phase.components:
            model = component.memory
            yield f"  {model.name} on {model.device}: {_listed(_shares_of(model))}"
        if phase.external:
            for device, held in phase.external.taken.items():
                yield f"  {phase.external.name} on {device}: {_listed(held)}"
    yield from plan.notes


def _shares_of(model: ModelMemory) -> dict[str, int]:
    shares = {
        "weights": model.weight_bytes,
        "in RAM from the file": model.mapped,
        "streamed": model.streamed,
        "staging": model.staging,
        "LoRA": model.arrays,
        "constants": model.constants,
        "compute buffer": model.compute,
    }
    return {what: nbytes for what, nbytes in shares.items() if nbytes}


def _listed(shares: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {_mib(nbytes)} MiB" for what, nbytes in shares.items() if nbytes)


def _mib(nbytes: int) -> str:
    return f"{nbytes / MIB:,.0f}"
