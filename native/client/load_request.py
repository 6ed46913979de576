"""A load request: where every weight of a set lies, by content, but no weight itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import numpy as np

from ..placement import Placement
from ..weights.weight_set import ARRAY_TYPES, Parameter, WeightSet
from ..wire.messages import DryRun, DryRunStep, Estimate, ExternalModel, ModelMemory, Step
from .errors import from_reply

_row = attrgetter(*(field.name for field in fields(Parameter)))


def to_wire(placement: Placement) -> dict[str, Any]:
    """A placement as a request's fields."""
    return {"device": placement.device, "residency": placement.weights, "budget": placement.budget}


def manifest(weights: WeightSet) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The load request's fields, and the arrays it names by the digest of their content."""
    listed = [_row(parameter) for parameter in weights.parameters.values()]
    arrays = {name: np.ascontiguousarray(array) for name, array in weights.arrays.items()}
    digests = {name: _digest(array) for name, array in arrays.items()}
    described = {
        "name": weights.name,
        "files": weights.files,
        "files_digest": hashlib.sha256(json.dumps([weights.files, sorted(listed)]).encode()).hexdigest(),
        "parameters": listed,
        "arrays": [[name, digests[name], ARRAY_TYPES[str(a.dtype)], a.shape] for name, a in arrays.items()],
    }
    return described, {digests[name]: array for name, array in arrays.items()}


def _digest(array: np.ndarray) -> str:
    content = hashlib.sha256(json.dumps([array.dtype.str, array.shape]).encode())
    content.update(array.data)
    return content.hexdigest()


def step_requests(steps: Sequence[Step | ExternalModel]) -> dict[str, Any]:
    """The steps as the runner takes them, and the weight sets they name, by digest."""
    sets = {step.weights.digest: step.weights for step in steps if isinstance(step, Step)}
    requests: list[dict[str, Any]] = []
    for step in steps:
        if isinstance(step, ExternalModel):
            taken = {device: sum(shares.values()) for device, shares in step.taken.items()}
            requests.append({"do": "external", "name": step.name, "taken": taken, "kept": step.kept})
            continue
        fields = {"do": step.do, "digest": step.weights.digest, **to_wire(step.placement)}
        if step.program is not None:
            fields["program"] = step.program.digest
        requests.append(fields)
    return {"steps": requests, "sets": {digest: manifest(weights)[0] for digest, weights in sets.items()}}


def dry_run_of(reply: dict[str, Any]) -> DryRun:
    """A DryRun from the runner's answer."""
    steps = []
    for step in reply["steps"]:
        held = {name: now for name, (now, _) in step["held"].items()}
        peak = {name: most for name, (_, most) in step["held"].items()}
        measured = Estimate(**step["measured"]) if step["measured"] else None
        models = tuple(ModelMemory(**model) for model in step["models"])
        steps.append(DryRunStep(held, peak, models, step["external"], measured))
    return DryRun(tuple(steps), from_reply(reply["error"]) if "error" in reply else None)
