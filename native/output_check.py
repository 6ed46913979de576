"""Whether what a device computed can be a result at all: drivers give up in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .client.errors import RunnerError
from .weights.weight_set import WeightSet

_MANY = 1024  # elements that are not all alike by chance


def check_outputs(
    weights: WeightSet,
    device: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[np.ndarray],
    finite: Sequence[bool],
) -> None:
    """Raise RunnerError for outputs with infinite or NaN values, and for a GPU's that are one value throughout."""
    files = " or ".join(path for path, _, _ in weights.files) or "its file"
    if not all(finite):
        raise RunnerError(
            f"{weights.name} on {device} computed values that are infinite or not a number (NaN). Perhaps {files} is "
            "damaged, or this device's arithmetic is not precise enough: try another file, or the device CPU."
        )
    if device != "CPU" and _is_blank(inputs, outputs):
        raise RunnerError(
            f"{weights.name} on {device} computed the same value everywhere. Perhaps its driver stopped in the "
            f"middle, or {files} is damaged: update the graphics driver, try another file, or the device CPU."
        )


def _is_blank(inputs: Mapping[str, np.ndarray], outputs: Sequence[np.ndarray]) -> bool:
    """An output of many elements is one value throughout, though the inputs are not."""
    blank = any(array.size >= _MANY and array.min() == array.max() for array in outputs)
    return blank and any(array.min() != array.max() for array in inputs.values())
