"""The order of a program's operations: as late as possible (ALAP), to lower the peak of memory."""

from __future__ import annotations

from collections.abc import Sequence

from .tensor import Tensor, nbytes


def schedule(tensors: Sequence[Tensor], outputs: Sequence[int]) -> list[int]:
    """The indices of the tensors that the outputs need, each right before the first that takes it as a source.

    So an operation follows the one that a backend can fuse it with. Of several sources the smaller come first: they
    stay allocated while the larger are computed.
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
