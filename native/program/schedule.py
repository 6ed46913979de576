"""The order of a program: everything as late as it can be, so that little lives at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ggml_types import LAYOUTS
from . import Tensor


def nbytes(tensor: Tensor) -> int:
    """Bytes of a tensor's elements."""
    layout = LAYOUTS[tensor.type]
    return math.prod(tensor.ne) // layout.block * layout.nbytes


def schedule(tensors: Sequence[Tensor], outputs: Sequence[int]) -> list[int]:
    """The tensors that the outputs need, each right before the first that takes it: what a backend fuses is together.

    Of several sources the smaller come first: they are held while the larger are made.
    """
    ordered: dict[int, None] = {}
    stack = list(reversed(outputs))
    while stack:
        index = stack[-1]
        missing = [source for source in dict.fromkeys(tensors[index].sources) if source not in ordered]
        if missing and index not in ordered:
            missing.sort(key=lambda source: nbytes(tensors[source]))
            stack += reversed(missing)
        else:
            stack.pop()
            ordered[index] = None
    return list(ordered)
