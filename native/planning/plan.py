"""The memory plan of a workflow: its phases and their peak on every device. All sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..client import OutOfMemory
from ..wire.messages import Device, DeviceInfo, DryRun, ExternalModel, ModelMemory, Step
from .rates import Rates
from .seconds import seconds_of


@dataclass(frozen=True)
class Machine:
    """The devices that a workflow is planned for, this machine's or a profile's, and their capacity."""

    devices: tuple[Device, ...]
    capacity: Mapping[str, int]  # bytes that the workflow may take, by device name
    foreign: tuple[DeviceInfo, ...] = ()  # the devices of another machine
    profile: str = ""  # the other machine's name
    rates: Mapping[str, Rates] = field(default_factory=dict)  # by device, of those whose speed is known


@dataclass(frozen=True)
class Part:
    """The part of a workflow that a step of a dry run belongs to."""

    node: str  # id of the node that is executed
    title: str  # its work, in words
    loader: str = ""  # id of the model's loader node
    prefix: str = ""  # before the names of that node's inputs `device` and `weights` for the model
    loading: bool = False  # the step only loads weights
    times: int = 1  # that the step is done; 0: not known


@dataclass(frozen=True)
class Component:
    """The memory of a model, and the node that loads it."""

    loader: str  # node id
    memory: ModelMemory


@dataclass(frozen=True)
class Phase:
    """The work of one node."""

    node: str
    title: str
    peak: Mapping[str, int]  # by device
    components: tuple[Component, ...]  # in memory at its end
    external: ExternalModel | None = None  # in a process of its own, in memory at its end
    external_loader: str = ""  # node id
    seconds: float | None = None  # that it takes, about; None: not known


@dataclass(frozen=True)
class Shortage:
    """The first step that does not fit. docs/plan.schema.json has these fields."""

    node: str
    title: str
    loader: str  # id of the loader node
    loading: bool  # the weights alone do not fit
    device: str
    over: int  # bytes that are lacking; 0 where a budget or a limit of the device refuses
    message: str
    prefix: str = ""  # before the names of its inputs for the model that is short


@dataclass(frozen=True)
class Plan:
    """The phases of a workflow on a machine."""

    machine: Machine
    phases: tuple[Phase, ...]  # in the order of execution, up to the shortage
    shortage: Shortage | None  # None: everything fits
    notes: tuple[str, ...]  # what is not in the plan, or planned with an assumption, for the user
    gaps: tuple[str, ...] = ()  # those of them that are about models of this pack

    @property
    def fits(self) -> bool:
        """Whether all that models of this pack do is planned, and fits."""
        return self.shortage is None and not self.gaps

    @property
    def peaks(self) -> dict[str, int]:
        """The highest peak of any phase, by device."""
        return {device: max((phase.peak[device] for phase in self.phases), default=0) for device in self.capacity}

    @property
    def seconds(self) -> float | None:
        """Seconds that all phases take, about; None where that is not known of one of them."""
        known = [phase.seconds for phase in self.phases if phase.seconds is not None]
        return sum(known) if known and len(known) == len(self.phases) else None

    @property
    def capacity(self) -> Mapping[str, int]:
        """The bytes that the workflow may take, by device."""
        return self.machine.capacity


@dataclass(frozen=True)
class Advice:
    """A change with which a workflow fits."""

    words: str
    change: Mapping[str, Mapping[str, object]]  # node id -> input -> value
    peaks: Mapping[str, int]  # of the changed workflow, by device


def plan_of(
    machine: Machine,
    steps: Sequence[tuple[Step | ExternalModel, Part]],
    loaders: Mapping[str, str],
    dry_run: DryRun,
    notes: Sequence[str] = (),
    gaps: Sequence[str] = (),
) -> Plan:
    """The plan from the dry run of these steps. loaders: loader node ids, by the digest of a model's weights.

    notes, gaps: as Plan's.
    """
    phases: list[Phase] = []
    external: ExternalModel | None = None
    external_loader = ""
    loaded: tuple[ModelMemory, ...] = ()
    for (step, part), done in zip(steps, dry_run.steps, strict=False):
        if isinstance(step, ExternalModel):
            external, external_loader = step, part.loader
        elif not done.external:
            external, external_loader = None, ""
        joined = bool(phases) and phases[-1].node == part.node
        before = phases.pop() if joined else None
        peak = {device: max(before.peak[device] if before else 0, nbytes) for device, nbytes in done.peak.items()}
        seconds = seconds_of(step, part.times, loaded, done, machine.rates)
        if before is not None:
            seconds = None if seconds is None or before.seconds is None else before.seconds + seconds
        loaded = done.models
        components = tuple(Component(loaders.get(model.digest, ""), model) for model in done.models)
        phases.append(Phase(part.node, part.title, peak, components, external, external_loader, seconds))
    shortage = None
    if dry_run.error is not None:
        part, device, over = steps[len(dry_run.steps)][1], "", 0
        if isinstance(dry_run.error, OutOfMemory):
            device = dry_run.error.device
            over = dry_run.error.requested - dry_run.error.free
        message = str(dry_run.error)
        shortage = Shortage(part.node, part.title, part.loader, part.loading, device, over, message, part.prefix)
    return Plan(machine, tuple(phases), shortage, tuple(notes), tuple(gaps))
