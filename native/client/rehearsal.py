"""What a sequence of calls would take of each device, asked of the runner before any of them is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..placement import Placement
from ..program import Program
from ..weights.weight_set import WeightSet
from .errors import from_reply
from .manifest import manifest, spoken
from .reports import Measurement, ModelMemory


@dataclass(frozen=True)
class Step:
    """A call of Runner.load, run (of `program`), unload or measure."""

    do: Literal["load", "run", "unload", "measure"]
    weights: WeightSet
    placement: Placement
    program: Program | None = None


@dataclass(frozen=True)
class Outside:
    """A model that comes into a process of its own, such as a language model.

    taken: bytes by device and by what they are for. kept: it stays when the next model is loaded, until another of its
    kind comes.
    """

    name: str
    taken: Mapping[str, Mapping[str, int]]
    kept: bool


@dataclass(frozen=True)
class Imagined:
    """A device of another machine, by what decides how it is treated (runner/traits.py)."""

    name: str  # as ggml would call it there
    type: str  # CPU, GPU, IGPU or ACCEL
    description: str  # its driver's name for it
    features: tuple[str, ...]  # as ggml-vulkan lists them
    small_window: bool  # no resizable BAR
    system: str  # as sys.platform


@dataclass(frozen=True)
class Rehearsed:
    """After a step: bytes held on each device, the most held during it, what each model holds, what was measured.

    outside: whether the last model in another process is still there.
    """

    held: dict[str, int]
    peak: dict[str, int]
    models: tuple[ModelMemory, ...]
    outside: bool
    measured: Measurement | None


@dataclass(frozen=True)
class Rehearsal:
    """What the steps lead to, as far as they can be done; error: why the one after the last of them cannot."""

    steps: tuple[Rehearsed, ...]
    error: Exception | None


def step_requests(steps: Sequence[Step | Outside]) -> dict[str, Any]:
    """The steps as the runner takes them, and the weight sets they name, by digest."""
    sets = {step.weights.digest: step.weights for step in steps if isinstance(step, Step)}
    requests: list[dict[str, Any]] = []
    for step in steps:
        if isinstance(step, Outside):
            taken = {device: sum(shares.values()) for device, shares in step.taken.items()}
            requests.append({"do": "outside", "name": step.name, "taken": taken, "kept": step.kept})
            continue
        fields = {"do": step.do, "digest": step.weights.digest, **spoken(step.placement)}
        if step.program is not None:
            fields["program"] = step.program.digest
        requests.append(fields)
    return {"steps": requests, "sets": {digest: manifest(weights)[0] for digest, weights in sets.items()}}


def rehearsal(reply: dict[str, Any]) -> Rehearsal:
    """A Rehearsal from the runner's answer."""
    steps = []
    for step in reply["steps"]:
        held = {name: now for name, (now, _) in step["held"].items()}
        peak = {name: most for name, (_, most) in step["held"].items()}
        measured = Measurement(**step["measured"]) if step["measured"] else None
        models = tuple(ModelMemory(**model) for model in step["models"])
        steps.append(Rehearsed(held, peak, models, step["outside"], measured))
    return Rehearsal(tuple(steps), from_reply(reply["error"]) if "error" in reply else None)
