"""Reports of plans: as text for the user, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..placement import MIB
from ..wire.messages import ModelMemory
from .plan import Advice, Phase, Plan
from .rates import PUBLISHED
from .seconds import about

Peaks = Mapping[str, Mapping[str, int]]  # bytes by device, by node id


def report(plan: Plan, advised: Sequence[Advice] = (), chosen: str = "", actual: Peaks | None = None) -> str:
    """The report of a plan: the verdict and what would fit, then every phase with its peak on every device in MiB.

    chosen: the choices of the mode `fit`, in words. actual: peaks of the nodes that have run.
    """
    return "\n".join(_lines(plan, advised, chosen, actual or {}))


def verdict(plan: Plan) -> str:
    """One sentence: the phase that does not fit, by how much and where; or that the workflow fits, and what is open."""
    shortage = plan.shortage
    if shortage is None and plan.gaps:
        others = len(plan.gaps) - 1
        more = f" ({others} more such {'node' if others == 1 else 'nodes'} below.)" if others else ""
        return f"Whether the workflow fits is not known: {plan.gaps[0]}{more}"
    if shortage is None and not plan.phases:
        return "There is nothing to plan: the workflow uses no model of this pack."
    if shortage is None:
        return "The workflow fits."
    where = f" by {_mib(shortage.over)} MiB on {shortage.device}" if shortage.over else ""
    return f"{shortage.title} (node {shortage.node}) does not fit{where}."


def shares(phase: Phase, device: str) -> dict[str, int]:
    """The bytes of a phase's peak on a device, by use; memory that it frees before its end is a share of its own."""
    models = [each.memory for each in phase.components if each.memory.device == device]
    files = {model.files_digest: model for model in models}  # sets of the same files share weights
    by_use = {
        "weights": sum(model.weight_bytes for model in files.values()),
        "staging": sum(model.staging for model in models),
        "LoRA": sum(model.arrays for model in models),
        "constants": sum(model.constants for model in models),
        "compute buffer": sum(model.compute for model in models),
        "language model": sum(phase.external.taken.get(device, {}).values()) if phase.external else 0,
    }
    by_use["freed within the phase"] = max(0, phase.peak.get(device, 0) - sum(by_use.values()))
    return {use: nbytes for use, nbytes in by_use.items() if nbytes}


def plan_json(plan: Plan, advised: Sequence[Advice] = ()) -> dict[str, Any]:
    """A plan as JSON, sizes in bytes, times in seconds; docs/plan.schema.json is its schema."""
    shortage = plan.shortage
    return {
        "fits": plan.fits,
        "verdict": verdict(plan),
        "profile": plan.machine.profile or None,
        "seconds": plan.seconds,
        "rates": {
            device: plan.machine.rates[device].source if device in plan.machine.rates else None
            for device in plan.capacity
        },
        "devices": {
            device: {"capacity": nbytes, "peak": plan.peaks[device]} for device, nbytes in plan.capacity.items()
        },
        "phases": [
            {
                "node": phase.node,
                "title": phase.title,
                "seconds": phase.seconds,
                "devices": {
                    device: {"peak": peak, "shares": shares(phase, device)} for device, peak in phase.peak.items()
                },
                "models": list(_describe_models(phase)),
            }
            for phase in plan.phases
        ],
        "shortage": None if shortage is None else asdict(shortage),
        "advice": [asdict(each) for each in advised],
        "notes": list(plan.notes),
        "gaps": list(plan.gaps),
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
        for device, by_use in phase.external.taken.items():
            shown = {use: nbytes for use, nbytes in by_use.items() if nbytes}
            yield {"loader": phase.external_loader, "name": phase.external.name, "device": device, "bytes": shown}


def _lines(plan: Plan, advised: Sequence[Advice], chosen: str, actual: Peaks) -> Iterator[str]:
    yield verdict(plan)
    if chosen:
        yield chosen
    for each in advised:
        peaks = ", ".join(f"{_mib(nbytes)} MiB of {device}" for device, nbytes in each.peaks.items() if nbytes)
        yield f"It fits with {each.words}; that takes {peaks}."
    if plan.shortage:
        yield plan.shortage.message
    if plan.machine.profile:
        yield f"Planned for {plan.machine.profile}"
    for device, nbytes in plan.peaks.items():
        if nbytes:
            yield f"{device}: at most {_mib(nbytes)} of {_mib(plan.capacity[device])} MiB"
    yield from _time(plan)
    for phase in plan.phases:
        yield f"{phase.title} (node {phase.node})" + ("" if phase.seconds is None else f": {about(phase.seconds)}")
        for device, nbytes in phase.peak.items():
            if nbytes:
                measured = actual.get(phase.node, {}).get(device)
                yield f"  {device}: {_mib(nbytes)} MiB" + (
                    "" if measured is None else f" planned, {_mib(measured)} measured"
                )
        for component in phase.components:
            model = component.memory
            yield f"  {model.name} on {model.device}: {_listed(_shares_of(model))}"
        if phase.external:
            for device, by_use in phase.external.taken.items():
                yield f"  {phase.external.name} on {device}: {_listed(by_use)}"
    yield from plan.notes


def _time(plan: Plan) -> Iterator[str]:
    """How long it takes, and from which rates that is known; or on which devices it is not."""
    used = sorted({each.memory.device for phase in plan.phases for each in phase.components})
    unknown = [device for device in used if device not in plan.machine.rates]
    if unknown:
        yield f"How long it takes is not measured on {', '.join(unknown)}"
    published = [device for device in used if device not in unknown and plan.machine.rates[device].source == PUBLISHED]
    basis = f", by the published rates of {', '.join(published)}: not measured" if published else ""
    if plan.seconds is not None and plan.shortage is None:
        yield f"It takes {about(plan.seconds)}{basis}"


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
    return {use: nbytes for use, nbytes in shares.items() if nbytes}


def _listed(shares: Mapping[str, int]) -> str:
    return ", ".join(f"{use} {_mib(nbytes)} MiB" for use, nbytes in shares.items() if nbytes)


def _mib(nbytes: int) -> str:
    return f"{nbytes / MIB:,.0f}"
