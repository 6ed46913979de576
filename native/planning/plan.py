"""A workflow's phases and the memory that each takes of every device. All sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..client import OutOfMemory
from ..wire.messages import DryRun, ExternalModel, ModelMemory, Step
from .machine import Machine


@dataclass(frozen=True)
class Part:
    """What a step of a rehearsal belongs to: the node whose turn it is, its work in words, the model's loader node.

    loading: it only brings weights.
    """

    node: str
    title: str
    loader: str = ""
    loading: bool = False


@dataclass(frozen=True)
class Component:
    """What a model holds, and the node that loads it."""

    loader: str
    memory: ModelMemory


@dataclass(frozen=True)
class Phase:
    """What one node does. peak: by device; components and outside: what is held at its end.

    outside_loader: the node that names the outside.
    """

    node: str
    title: str
    peak: Mapping[str, int]
    components: tuple[Component, ...]
    external: ExternalModel | None = None
    external_loader: str = ""


@dataclass(frozen=True)
class Shortage:
    """The first thing that does not fit. over: bytes that are lacking; 0 where a budget or a limit says no.

    loading: there is no room for the weights, whatever they compute.
    """

    node: str
    title: str
    loader: str
    loading: bool
    device: str
    over: int
    message: str


@dataclass(frozen=True)
class Plan:
    """phases: in the order in which they run, as far as they fit. notes: what is not in the plan."""

    machine: Machine
    phases: tuple[Phase, ...]
    shortage: Shortage | None
    notes: tuple[str, ...]

    @property
    def peaks(self) -> dict[str, int]:
        """The most that any phase takes, by device."""
        return {device: max((phase.peak[device] for phase in self.phases), default=0) for device in self.capacity}

    @property
    def capacity(self) -> Mapping[str, int]:
        """What the workflow may take, by device."""
        return self.machine.capacity


@dataclass(frozen=True)
class Advice:
    """A change with which a workflow fits, in words and as inputs by node, and what it takes then, by device."""

    words: str
    change: Mapping[str, Mapping[str, object]]
    peaks: Mapping[str, int]


def plan_of(
    machine: Machine,
    steps: Sequence[tuple[Step | ExternalModel, Part]],
    loaders: Mapping[str, str],
    dry_run_of: DryRun,
    notes: Sequence[str] = (),
) -> Plan:
    """The plan of a rehearsal of these steps. loaders: the node of a model, by its weights' digest."""
    phases: list[Phase] = []
    external: ExternalModel | None = None
    external_loader = ""
    for (step, part), done in zip(steps, dry_run_of.steps, strict=False):
        if isinstance(step, ExternalModel):
            external, external_loader = step, part.loader
        elif not done.external:
            external, external_loader = None, ""
        joined = bool(phases) and phases[-1].node == part.node
        before = phases.pop().peak if joined else {}
        peak = {device: max(before.get(device, 0), nbytes) for device, nbytes in done.peak.items()}
        components = tuple(Component(loaders.get(model.digest, ""), model) for model in done.models)
        phases.append(Phase(part.node, part.title, peak, components, external, external_loader))
    shortage = None
    if dry_run_of.error is not None:
        part, device, over = steps[len(dry_run_of.steps)][1], "", 0
        if isinstance(dry_run_of.error, OutOfMemory):
            device = dry_run_of.error.device
            over = dry_run_of.error.requested - dry_run_of.error.free
        shortage = Shortage(part.node, part.title, part.loader, part.loading, device, over, str(dry_run_of.error))
    return Plan(machine, tuple(phases), shortage, tuple(notes))
