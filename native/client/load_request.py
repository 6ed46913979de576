"""Weight sets and dry runs as requests: where every weight lies, by content, but no weight itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..placement import CPU, Placement
from ..program import Program
from ..weights.weight_set import ARRAY_TYPES, Array, WeightSet, array_digest, described_in_bytes
from ..wire.messages import (
    ArrayDescription,
    DeviceInfo,
    DryRunRequest,
    DryRunStepRequest,
    EstimateRequest,
    ExternalModel,
    LoadRequest,
    ReleaseRequest,
    RunRequest,
    Step,
    UnloadRequest,
    WeightsDescription,
)

_NOTHING, _NOWHERE = WeightSet("nothing", {}, ()), Placement(CPU)


@dataclass(frozen=True, eq=False)
class Supplies:
    """All that a request needs, to be sent where the runner lacks it.

    programs: by digest. progress: gets the bytes done and in all while the weights are loaded. asked: inputs of a run
    that the runner has asked for.
    """

    programs: Mapping[str, Program] = field(default_factory=dict)
    weights: WeightSet = _NOTHING
    placement: Placement = _NOWHERE
    progress: Callable[[int, int], None] | None = None
    asked: set[str] = field(default_factory=set)

    def load_request(self) -> LoadRequest:
        """The request that describes the weights."""
        return LoadRequest(self.weights.digest, self.placement, self._described[0])

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The arrays of the weight set, by the digest of their content."""
        return self._described[1]

    @cached_property
    def _described(self) -> tuple[WeightsDescription, dict[str, Array]]:
        return described(self.weights)


def described(weights: WeightSet) -> tuple[WeightsDescription, dict[str, Array]]:
    """The description of a weight set, and the arrays it names by the digest of their content."""
    arrays = weights.arrays
    digests = {name: array_digest(array) for name, array in arrays.items()}
    description = WeightsDescription(
        weights.name,
        weights.files,
        hashlib.sha256(described_in_bytes(weights.files, weights.parameters.values())).hexdigest(),
        tuple(weights.parameters.values()),
        tuple(ArrayDescription(name, digests[name], ARRAY_TYPES[str(a.dtype)], a.shape) for name, a in arrays.items()),
    )
    return description, {digests[name]: array for name, array in arrays.items()}


def dry_run_request(
    capacity: Mapping[str, int], steps: Sequence[Step | ExternalModel], foreign: Sequence[DeviceInfo]
) -> DryRunRequest:
    """The steps as requests, and the weight sets they name."""
    sets = {step.weights.digest: step.weights for step in steps if isinstance(step, Step)}
    requests = tuple(step if isinstance(step, ExternalModel) else _request(step) for step in steps)
    descriptions = {digest: described(weights)[0] for digest, weights in sets.items()}
    return DryRunRequest(dict(capacity), tuple(foreign), requests, descriptions)


def _request(step: Step) -> DryRunStepRequest:
    digest, placement = step.weights.digest, step.placement
    if step.do == "load":
        return LoadRequest(digest, placement)
    if step.do == "release":
        return ReleaseRequest(digest, placement)
    if step.do == "unload":
        return UnloadRequest(digest, placement)
    assert step.program is not None
    if step.do == "estimate":
        return EstimateRequest(step.weights.name, placement, step.program.digest)
    return RunRequest(digest, placement, step.program.digest, {}, 0)
