"""Recognises outputs that cannot be a result: drivers give up in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

import numpy as np

from .errors import NotFinite, RunnerError
from .placement import CPU
from .weights.weight_set import WeightSet
from .wire.messages import OutputCheck

_MANY = 1024  # elements that are not all alike by chance


def check_of(output: np.ndarray) -> OutputCheck:
    """Looks once through an output of at least one element."""
    low, high = output.min(), output.max()  # both are NaN when any element is
    return OutputCheck(isfinite(low) and isfinite(high), bool(output.size >= _MANY and low == high))


def check_outputs(
    weights: WeightSet, device: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[OutputCheck]
) -> None:
    """Raise NotFinite for outputs with infinite or NaN values, RunnerError for a GPU's that are one value throughout.

    The latter is no error where all inputs are that, too.
    """
    files = " or ".join(path for path, _, _ in weights.files) or "its file"
    if not all(output.finite for output in outputs):
        raise NotFinite(
            f"{weights.name} on {device} computed values that are infinite or not a number (NaN). Perhaps {files} is "
            "damaged, or this device's arithmetic is not precise enough: try another file, or the device CPU."
        )
    constant = device != CPU and any(output.constant for output in outputs)
    if constant and any(array.min() != array.max() for array in inputs.values()):
        raise RunnerError(
            f"{weights.name} on {device} computed the same value everywhere. Perhaps its driver stopped in the "
            f"middle, or {files} is damaged: update the graphics driver, try another file, or the device CPU."
        )
