"""How much arithmetic an operation is, and where to cut a program so that an abort is never far."""

from __future__ import annotations

from collections.abc import Collection
from math import prod

from ..program import Tensor

_PARTS = 50  # an abort is honoured within this part of a run
_SMALLEST = 2e9  # operations; below this the cost of a cut (a wait for the device) would show


def flops(tensor: Tensor, sources: list[Tensor]) -> float:
    """Floating-point operations of one row of the table; 0 for what only names other memory."""
    elements = float(prod(tensor.ne))
    if tensor.kind != "op" or tensor.name in ("view", "reshape", "permute"):
        return 0.0
    if tensor.name == "mul_mat":
        return 2.0 * elements * sources[0].ne[0]
    if tensor.name == "conv_2d":
        return 2.0 * elements * prod(sources[0].ne[:3])
    if tensor.name == "flash_attn":
        queries, keys, values = sources[0].ne, sources[1].ne, sources[2].ne
        return 2.0 * queries[1] * queries[2] * queries[3] * keys[1] * (queries[0] + values[0])
    return elements


def cuts(amounts: list[float], largest: float, stops: Collection[int] = ()) -> list[tuple[int, float]]:
    """Where to end each segment (index after its last node) and which fraction of the run is then done.

    stops: nodes before which a segment ends in any case.
    Never depends on measured time: what a backend fuses ends at a cut, and the same seed must give the same picture.
    """
    total = sum(amounts)
    budget = min(max(total / _PARTS, _SMALLEST), largest)
    ends, held, done = [], 0.0, 0.0
    for index, amount in enumerate(amounts):
        if held and (index in stops or (amount and held + amount > budget)):
            ends.append((index, done / total))
            held = 0.0
        held += amount
        done += amount
    return [*ends, (len(amounts), 1.0)]
