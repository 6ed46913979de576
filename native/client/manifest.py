"""A weight set and its place as a request: where everything lies, by content, but no weight itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from operator import attrgetter
from typing import Any

import numpy as np

from ..placement import Placement
from ..weights.weight_set import ARRAY_TYPES, Parameter, WeightSet

_row = attrgetter(*(field.name for field in fields(Parameter)))


def spoken(placement: Placement) -> dict[str, Any]:
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
