"""A workflow's phases and the memory that each takes of every device. All sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..client import OutOfMemory
from ..client.rehearsal import Rehearsal, Rehearsed
from ..client.reports import ModelMemory


@dataclass(frozen=True)
class Phase:
    """What one node does. peak: by device; models: what each holds at the end."""

    node: str
    title: str
    peak: Mapping[str, int]
    models: tuple[ModelMemory, ...]


@dataclass(frozen=True)
class Shortage:
    """The first thing that does not fit. over: bytes that are lacking; 0 where a budget or a limit says no."""

    node: str
    title: str
    device: str
    over: int
    message: str


@dataclass(frozen=True)
class Plan:
    """phases: in the order in which they run, as far as they fit. notes: what is not in the plan."""

    capacity: Mapping[str, int]
    phases: tuple[Phase, ...]
    shortage: Shortage | None
    notes: tuple[str, ...]

    @property
    def peaks(self) -> dict[str, int]:
        """The most that any phase takes, by device."""
        return {device: max((phase.peak[device] for phase in self.phases), default=0) for device in self.capacity}


@dataclass(frozen=True)
class Advice:
    """A change with which a workflow fits, in words, and what it takes then, by device."""

    words: str
    peaks: Mapping[str, int]


def plan_of(
    capacity: Mapping[str, int], parts: Sequence[tuple[str, str]], rehearsal: Rehearsal, notes: Sequence[str] = ()
) -> Plan:
    """The plan of a rehearsal; parts: the node and the title of each of its steps."""
    phases: list[Phase] = []
    for (node, title), step in zip(parts, rehearsal.steps, strict=False):
        if phases and phases[-1].node == node:
            phases[-1] = _joined(phases[-1], step)
        else:
            phases.append(Phase(node, title, step.peak, step.models))
    shortage = None
    if rehearsal.error is not None:
        node, title = parts[len(rehearsal.steps)]
        device, over = "", 0
        if isinstance(rehearsal.error, OutOfMemory):
            device = rehearsal.error.device
            over = rehearsal.error.requested - rehearsal.error.free
        shortage = Shortage(node, title, device, over, str(rehearsal.error))
    return Plan(capacity, tuple(phases), shortage, tuple(notes))


def _joined(phase: Phase, step: Rehearsed) -> Phase:
    peak = {device: max(phase.peak[device], nbytes) for device, nbytes in step.peak.items()}
    return Phase(phase.node, phase.title, peak, step.models)
