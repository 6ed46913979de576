"""Tables of positions on a grid, such as those of a video's frames, rows and columns, as sums of small tables."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from ..program.builder import Builder
from .strides import Layout, Operand, Shape, binary, contiguous, contiguous_stride

_LARGE_BYTES = 1 << 20
Tables = tuple[Shape, list[np.ndarray]]


def constant(b: Builder, values: np.ndarray) -> int:
    """A tensor of fixed values; a large table of positions on a grid is made of its small ones on the device."""
    positions = next((n for n in values.shape if n != 1), 1)
    large = values.nbytes > _LARGE_BYTES and values.dtype == np.float32
    found = by_axis(values.reshape(positions, -1)) if large else None
    return b.constant(values) if found is None else _sum(b, *found)


def _sum(b: Builder, grid: Shape, tables: list[np.ndarray]) -> int:
    """Tables [positions on an axis, channels], each repeated along the other axes of the grid, and added."""
    shape = (*grid, tables[0].shape[1])
    stride = contiguous_stride(shape)
    parts = []
    for axis, table in enumerate(tables):
        own = tuple(n if dim in (axis, len(grid)) else 1 for dim, n in enumerate(shape))
        parts.append(Operand(b.constant(table), own, contiguous_stride(own)).broadcast(shape))
    whole, *others = parts
    for part in others:
        whole = Operand(binary(b, "add", whole, part, Layout.of(shape, stride)), shape, stride)
    return contiguous(b, whole)


def by_axis(table: np.ndarray) -> Tables | None:
    """The grid of positions, slowest axis first, and for its axes a table each [positions on the axis, channels].

    table: [positions, channels], F32, with channels that change along one axis each. It is the sum of the axes' tables,
    each repeated along the other axes: exactly, since all but one are zero there. The last axis, along which no channel
    changes, has no table. None where it is no such table.
    """
    positions, channels = table.shape
    # [channels, positions - 1], as argmax along contiguous numbers ends at the first that is true
    changes = torch.from_numpy(table[1:] != table[:-1]).T.contiguous().numpy()
    firsts = np.where(changes.any(1), changes.argmax(1) + 1, positions)  # how often a channel's first value is repeated
    del changes
    usual = Counter(n for n in firsts.tolist() if n < positions)
    inner = sorted((n for n, times in usual.items() if times * 64 >= channels), reverse=True)
    outer = [positions, *inner[:-1]]
    if inner in ([], [1]) or len(inner) > 3 or any(n % step for n, step in zip(outer, inner, strict=True)):
        return None
    left = np.ones(channels, bool)
    tables = []
    for size, step in zip(outer, inner, strict=True):
        cube = table.reshape(positions // size, size // step, step, channels)
        small = cube[0, :, 0]
        fits = left & (cube == small[None, :, None]).all((0, 1, 2))
        tables.append(np.where(fits, small, np.float32(0)))
        left &= ~fits
    grid = [n // step for n, step in zip(outer, inner, strict=True)] + inner[-1:] * (inner[-1] != 1)
    return None if left.any() or len(grid) > 3 else (tuple(grid), tables)
