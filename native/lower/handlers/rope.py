"""Handlers of rotary position embeddings: by ggml's rope where the table has integer positions, else by the table."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ...quota import check_quota
from ...trace.graph import Window
from ..host import on_host
from ..lowering import Lowering, handler
from ..strides import Layout, Operand, Shape, binary, contiguous, contiguous_stride, physical_order
from .data_movement import cat
from .norms import rms_norm

_AXES = 3  # with more of them the table takes fewer operations
_STILL = 1e30  # divisor of an angle that stays 0
_TOLERANCE = 2e-5  # of a cosine or sine
_PART_BYTES = 8 << 20


def _rotated(low: Lowering, x: Operand, table: Window, halves: bool) -> Operand:
    """Rotate pairs of channels (Su et al. 2021, section 3.2.2): out[r] = f[i, r, 0] x[0] + f[i, r, 1] x[1] of pair i.

    x: [.., channels]; halves: pair i is the channels i and i + channels / 2, else 2 i and 2 i + 1.
    table: [.., channels / 2, 2, 2], repeated over x; it may have more tokens, which are dimension 2.
    """
    if len(x.shape) > 2 and len(table.shape) > 2 and x.shape[2] != 1 and table.shape[2] > x.shape[2]:
        table = replace(table, shape=(*table.shape[:2], x.shape[2], *table.shape[3:]))
    found = _rotations(low, table, x.shape)
    if found is None or x.stride[-1] != 1 or 0 in x.stride:
        return _by_table(low, x, table, halves)
    return _by_position(low, x, *found, halves)


def _by_position(low: Lowering, x: Operand, tokens: int, rotations: list[tuple[int, int]], halves: bool) -> Operand:
    """One rotation for each axis of positions; tokens: their dimension."""
    (first, second) = (dim for dim in range(3) if dim != tokens)
    order = (first, tokens, second, 3)
    rotated = low.b.window(x.tensor, [(x.shape[i], x.stride[i]) for i in order], x.offset)
    for positions, divisors in rotations:
        rotated = low.b.op("rope", rotated, positions, divisors, halves=halves)
    shape = tuple(x.shape[i] for i in order)
    return Operand(rotated, shape, contiguous_stride(shape)).permuted([order.index(i) for i in range(4)])


def _by_table(low: Lowering, x: Operand, table: Window, halves: bool) -> Operand:
    """Each channel times its own factor, plus the other channel of its pair times another."""
    b, rank = low.b, len(x.shape)
    order = physical_order(x.shape, x.stride) if x.stride[-1] == 1 and 0 not in x.stride else tuple(range(rank))
    if order[-1] != rank - 1:
        order = tuple(range(rank))
    source = contiguous(b, x.permuted(order))
    strides = contiguous_stride([x.shape[i] for i in order])
    stride = tuple(strides[order.index(i)] for i in range(rank))
    half = x.shape[-1] // 2
    dims, step = (
        ([(x.numel // x.shape[-1], x.shape[-1]), (half, 1)], half) if halves else ([(x.numel // 2, 2), (1, 1)], 1)
    )
    second, first = (b.window(source, dims, offset) for offset in (step, 0))
    swapped = b.op("concat", second, first, dim=0)
    layout = Layout(x.shape, order)
    own = binary(b, "mul", Operand(source, x.shape, stride), _factors(low, table, 0, halves), layout)
    crossed = binary(b, "mul", Operand(swapped, x.shape, stride), _factors(low, table, 1, halves), layout)
    result = b.op("add", b.reshape(own, (x.numel,)), b.reshape(crossed, (x.numel,)))
    return Operand(result, x.shape, stride)


@on_host
def _joined(*pair: torch.Tensor, halves: bool) -> torch.Tensor:
    return (torch.cat(pair, -1) if halves else torch.stack(pair, -1).flatten(-2)).float()


def _factors(low: Lowering, table: Window, which: int, halves: bool) -> Operand:
    """[.., channels]: of the channel itself (0), f[.., 0, 0] and f[.., 1, 1], or of the other one of its pair (1)."""
    if not low.on_device(table):
        return low.host_computed(
            ("rope", halves), partial(_joined, halves=halves), _entry(table, 0, which), _entry(table, 1, 1 - which)
        )
    f = low.operand(table)
    row, column = f.stride[-2:]
    shape = (*table.shape[:-2], 2)
    picked = Operand(f.tensor, shape, (*f.stride[:-2], row + column * (1 - 2 * which)), f.offset + column * which)
    if halves:
        picked = picked.permuted((*range(len(shape) - 2), len(shape) - 1, len(shape) - 2))
    shape = (*table.shape[:-3], 2 * table.shape[-3])
    return Operand(contiguous(low.b, picked), shape, contiguous_stride(shape))


def _entry(table: Window, row: int, column: int) -> Window:
    """An entry of all matrices of a table."""
    offset = table.offset + row * table.stride[-2] + column * table.stride[-1]
    return replace(table, shape=table.shape[:-2], stride=table.stride[:-2], offset=offset)


def _part(low: Lowering, x: Window, scale: Window | None, eps: float) -> Operand:
    """x, by its root mean square over the channels and a scale where there is one."""
    if scale is None:
        return low.operand(x)
    return rms_norm(low, x, x, x.shape[-1:], scale, eps)


def _beginning(low: Lowering, x: Window, normed: Operand, table: Window, halves: bool, channels: int) -> Operand:
    """Rotate the first channels of x, all where they are 0."""
    if channels in (0, x.shape[-1]):
        return _rotated(low, normed, table, halves)
    whole = low.temporary(x.shape)
    low.bind(whole, normed)
    first = low.temporary((*x.shape[:-1], channels))
    part = low.operand(replace(whole, shape=first.shape))
    low.bind(first, _rotated(low, part, table, halves))
    rest = replace(whole, shape=(*x.shape[:-1], x.shape[-1] - channels), offset=channels)
    joined = cat(low, whole, [first, rest], -1)
    low.bind(whole, joined)
    return low.operand(whole)


def _register(name: str, halves: bool, normed: bool, both: bool) -> None:
    """One operation of comfy_kitchen (backends/eager/rope.py there) and its form in place."""

    def results(low: Lowering, *given: Any, **named: Any) -> list[Operand]:
        xs, table, options = given[: 1 + both], given[1 + both], list(given[2 + both :])
        scales: list[Window | None] = [None] * (1 + both)
        eps, channels = 1e-6, 0
        if normed:
            scales = [*options, named.get("scale", named.get("q_scale")), named.get("k_scale")][: 1 + both]
            scales = [scales[0], *(each or scales[0] for each in scales[1:])]
            options = options[1 + both :]
            eps = options[0] if options else named.get("epsilon", eps)
            channels = options[1] if len(options) > 1 else named.get("rot_dim", channels)
        return [
            _beginning(low, x, _part(low, x, scale, eps), table, halves, channels)
            for x, scale in zip(xs, scales, strict=True)
        ]

    @handler(f"comfy_kitchen.{name}.default")
    def apply(low: Lowering, _out: Window, *given: Any, **named: Any) -> tuple[Operand, ...]:
        return tuple(results(low, *given, **named))

    @handler(f"comfy_kitchen.{name}_.default")
    def apply_in_place(low: Lowering, _out: None, *given: Any, **named: Any) -> tuple[Operand, ...]:
        for x, made in zip(given, results(low, *given, **named), strict=False):
            low.bind(x, made)
        return ()


for _halves, _split in ((False, ""), (True, "_split_half")):
    for _both, _one in ((True, ""), (False, "1")):
        _register(f"apply_rope{_split}{_one}", _halves, False, _both)
        _register(f"rms_rope{_split}{_one}", _halves, True, _both)


def _rotations(low: Lowering, table: Window, shape: Shape) -> tuple[int, list[tuple[int, int]]] | None:
    """The dimension of tokens, and (positions, divisors) of the rotations that make up the table; None: none do."""
    lead = table.shape[:-3]
    if not low.is_constant(table) or len(shape) != 4 or len(lead) != 3 or sum(n != 1 for n in lead) != 1:
        return None
    tokens = next(dim for dim, n in enumerate(lead) if n != 1)
    if lead[tokens] != shape[tokens] or 2 * table.shape[-3] != shape[-1]:
        return None
    key = ("rotations", table)
    if key not in low.cache:
        found = axes(low.value(table).reshape(lead[tokens], -1, 2, 2).numpy())
        low.cache[key] = None if found is None or len(found) > _AXES else [
            (low.b.constant(positions), low.b.constant(divisors)) for positions, divisors in found
        ]  # fmt: skip
    return None if low.cache[key] is None else (tokens, low.cache[key])


def axes(table: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Integer positions [tokens] and divisors [pairs] of the rotations by position / divisor that make up a table.

    table: [tokens, pairs, 2, 2]. Every pair rotates along one axis. The slowest pair of an axis, whose angles stay
    below a half turn, gives the positions; a token at position 1 the speeds of the others. None where that is not so.
    """
    parts = _parts(table)
    if max(map(_impurity, parts)) > _TOLERANCE:
        return None
    found = []
    left = np.concatenate([np.abs(_turns(part) - 1).max(0) for part in parts]) > _TOLERANCE  # pairs that rotate at all
    widest = np.concatenate([np.abs(np.angle(_turns(part))).max(0) for part in parts])
    while left.any():
        slowest = np.flatnonzero(left)[widest[left].argmin()]
        steps = np.angle(_turns(table[:, slowest]))
        unit = np.abs(steps[np.abs(steps) > _TOLERANCE]).min()
        positions = np.rint(steps / unit)
        if not (np.abs(positions) == 1).any():
            return None
        one = int(np.flatnonzero(np.abs(positions) == 1)[0])
        speed = np.angle(_turns(table[one])) * positions[one]
        speeds = np.split(speed, np.cumsum([part.shape[1] for part in parts])[:-1])
        fits = left & np.concatenate([_fits(part, positions, each) for part, each in zip(parts, speeds, strict=True)])
        if not fits[slowest]:
            return None
        divisors = np.where(fits, 1 / np.where(fits, speed, 1), _STILL)
        found.append((positions.astype(np.int32), divisors.astype(np.float32)))
        left &= ~fits
    return found


def _parts(table: np.ndarray) -> list[np.ndarray]:
    """Some pairs of a table after the others, so that what is made of a large one stays small."""
    step = max(1, _PART_BYTES // (table.shape[0] * np.dtype(np.complex128).itemsize))
    return [table[:, start : start + step] for start in range(0, table.shape[1], step)]


def _turns(matrices: np.ndarray) -> np.ndarray:
    """Rotation matrices [.., 2, 2] as complex numbers."""
    check_quota()
    turns = np.empty(matrices.shape[:-2], np.complex128)
    turns.real, turns.imag = matrices[..., 0, 0], matrices[..., 1, 0]
    return turns


def _impurity(matrices: np.ndarray) -> float:
    """How far matrices [.., 2, 2] are from rotations, at most."""
    cosines = np.abs(matrices[..., 0, 0] - matrices[..., 1, 1]).max()
    return float(max(cosines, np.abs(matrices[..., 1, 0] + matrices[..., 0, 1]).max()))


def _fits(matrices: np.ndarray, positions: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Which pairs [tokens, pairs, 2, 2] rotate by position * speed; positions: [tokens], speed: [pairs]."""
    fits: np.ndarray = np.abs(np.exp(1j * positions[:, None] * speed) - _turns(matrices)).max(0) <= _TOLERANCE
    return fits
