"""Handlers of rotary position embeddings: by ggml's rope where the table has integer positions, else by the table."""

from __future__ import annotations

import numpy as np
import torch

from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import Layout, Operand, binary, contiguous, contiguous_stride, physical_order

_AXES = 3  # with more of them the table takes fewer operations
_STILL = 1e30  # divisor of an angle that stays 0
_TOLERANCE = 2e-5  # of a cosine or sine


@handler("comfy_kitchen.apply_rope1.default")
def rope(low: Lowering, out: Window, x: Window, table: Window) -> Operand:
    """Rotate pairs of channels (Su et al. 2021, section 3.2.2): out[2i + r] = f[i, r, 0] x[2i] + f[i, r, 1] x[2i + 1].

    x: [batch, heads, tokens, channels]; table: [batch or 1, heads or 1, tokens, channels / 2, 2, 2], from the host.
    """
    rotations = _rotations(low, table, x.shape[2])
    source = low.operand(x)
    if rotations is None or source.stride[-1] != 1 or 0 in source.stride[:3]:
        return _by_table(low, source, table)
    return _by_position(low, source, rotations)


@handler("comfy_kitchen.apply_rope.default")
def rope_both(low: Lowering, out: Window, query: Window, key: Window, table: Window) -> tuple[Operand, Operand]:
    """Rotate queries and keys by the same table."""
    return rope(low, out, query, table), rope(low, low.output(1), key, table)


def _by_position(low: Lowering, x: Operand, rotations: list[tuple[int, int]]) -> Operand:
    """One rotation for each axis of positions."""
    batch, heads, tokens, channels = x.shape
    rotated = low.b.window(x.tensor, [(x.shape[i], x.stride[i]) for i in (0, 2, 1, 3)], x.offset)
    for positions, divisors in rotations:
        rotated = low.b.op("rope", rotated, positions, divisors)
    shape = (batch, tokens, heads, channels)
    return Operand(rotated, shape, contiguous_stride(shape)).permuted((0, 2, 1, 3))


def _by_table(low: Lowering, x: Operand, table: Window) -> Operand:
    """Each channel times its own factor, plus the other channel of its pair times another."""
    tokens, b = x.shape[2], low.b

    def factors(which: int) -> Operand:
        def pick(f: torch.Tensor) -> torch.Tensor:
            return torch.stack((f[..., 0, which], f[..., 1, 1 - which]), -1).flatten(-2)[..., :tokens, :].float()

        return low.host_computed(("rope", which, tokens), pick, table)

    order = physical_order(x.shape, x.stride) if x.stride[-1] == 1 and 0 not in x.stride else tuple(range(4))
    if order[-1] != 3:
        order = tuple(range(4))
    source = contiguous(b, x.permuted(order))
    strides = contiguous_stride([x.shape[i] for i in order])
    stride = tuple(strides[order.index(i)] for i in range(4))
    odd, even = (b.window(source, [(x.numel // 2, 2), (1, 1)], offset) for offset in (1, 0))
    swapped = b.op("concat", odd, even, dim=0)
    layout = Layout(x.shape, order)
    own = binary(b, "mul", Operand(source, x.shape, stride), factors(0), layout)
    crossed = binary(b, "mul", Operand(swapped, x.shape, stride), factors(1), layout)
    result = b.op("add", b.reshape(own, (x.numel,)), b.reshape(crossed, (x.numel,)))
    return Operand(result, x.shape, stride)


def _rotations(low: Lowering, table: Window, tokens: int) -> list[tuple[int, int]] | None:
    """(positions, divisors) of the rotations that make up the table, as constants; None where none do."""
    if not low.is_constant(table) or table.shape[:2] != (1, 1):
        return None
    key = ("rotations", table, tokens)
    if key not in low.cache:
        found = axes(low.value(table)[0, 0, :tokens].double().numpy())
        low.cache[key] = None if found is None or len(found) > _AXES else [
            (low.b.constant(positions), low.b.constant(divisors)) for positions, divisors in found
        ]  # fmt: skip
    return low.cache[key]


def axes(table: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Integer positions [tokens] and divisors [pairs] of the rotations by position / divisor that make up a table.

    table: [tokens, pairs, 2, 2]. Every pair rotates along one axis. The slowest pair of an axis, whose angles stay
    below a half turn, gives the positions; a token at position 1 the speeds of the others. None where that is not so.
    """
    rotation = table[..., 0, 0] + 1j * table[..., 1, 0]
    partner = table[..., 1, 1] - 1j * table[..., 0, 1]
    if np.abs(rotation - partner).max() > _TOLERANCE:
        return None
    angle = np.angle(rotation)
    found = []
    left = np.abs(rotation - 1).max(0) > _TOLERANCE  # pairs that rotate at all
    while left.any():
        slowest = np.flatnonzero(left)[np.abs(angle[:, left]).max(0).argmin()]
        steps = angle[:, slowest]
        unit = np.abs(steps[np.abs(steps) > _TOLERANCE]).min()
        positions = np.rint(steps / unit)
        if not (np.abs(positions) == 1).any():
            return None
        one = int(np.flatnonzero(np.abs(positions) == 1)[0])
        speed = angle[one] * positions[one]
        fits = left & (np.abs(np.exp(1j * positions[:, None] * speed) - rotation).max(0) <= _TOLERANCE)
        if not fits[slowest]:
            return None
        divisors = np.where(fits, 1 / np.where(fits, speed, 1), _STILL)
        found.append((positions.astype(np.int32), divisors.astype(np.float32)))
        left &= ~fits
    return found
