"""Rows of a matrix of codes as values, or as blocks of ggml's, by the factors that the file has beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from ..ggml_types import LAYOUTS
from .codes import PLAIN, decoded
from .runs import Factors, Run, Scaling

Raw = bytes | memoryview | np.ndarray
Read = Callable[[str, int, int], Raw]  # the bytes of a file from an offset on
BLOCK = 32  # elements of a block of Q8_0
_SWIZZLED = (128, 4)  # rows and columns of factors that cuBLAS has together


def scaled(run: Run, codes: np.ndarray, read: Read) -> np.ndarray:
    """Values (float32, flat) of the codes (flat) of a run that has a scaling."""
    scaling = run.scaling
    assert scaling is not None
    wide = min(each.tile[1] for each in scaling.factors)
    wide = wide if scaling.columns % wide == 0 else 1
    values = codes.reshape(-1, scaling.columns // wide, wide)
    values *= _factors(run, scaling, read, wide)[..., None]
    return (rotated(values, scaling.rotation) if scaling.rotation else values).reshape(-1)


def keeps_codes(run: Run) -> bool:
    """Whether blocks of Q8_0 can have the codes of a run as they are: 8 bits, not to be turned, a factor a block."""
    return run.stored == "I8" and run.scaling is not None and not run.scaling.rotation and has_blocks(run.scaling)


def has_blocks(scaling: Scaling) -> bool:
    """Whether every 32 columns have one factor, as a block of ggml has."""
    return scaling.columns % BLOCK == 0 and all(each.tile[1] % BLOCK == 0 for each in scaling.factors)


def q8_0_of_codes(run: Run, codes: np.ndarray, read: Read) -> np.ndarray:
    """Blocks of Q8_0 (uint8, flat) with the codes (int8) of a run and its factors, rounded to F16."""
    scaling = run.scaling
    assert scaling is not None
    codes = codes.reshape(-1, scaling.columns // BLOCK, BLOCK)
    return _with_halves(_factors(run, scaling, read, BLOCK), codes.view(np.uint8))


def q4_0_of_codes(run: Run, packed: np.ndarray, read: Read) -> np.ndarray:
    """Blocks of Q4_0 (uint8, flat) with the codes (uint8, two each) of a run and its factors, rounded to F16."""
    scaling = run.scaling
    assert scaling is not None
    # ggml's codes are 8 more, and those of a block's halves share the bytes, not those of even and odd columns
    codes = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1, scaling.columns // BLOCK, 2, BLOCK // 2) ^ 8
    return _with_halves(_factors(run, scaling, read, BLOCK), codes[:, :, 0] | codes[:, :, 1] << 4)


def _with_halves(factors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Blocks (uint8, flat) of factors [rows, blocks or 1], rounded to F16, and of codes [rows, blocks, bytes]."""
    with np.errstate(over="ignore"):
        halves = np.broadcast_to(factors.astype("<f2"), codes.shape[:2])
    return np.concatenate([np.ascontiguousarray(halves)[..., None].view(np.uint8), codes], axis=2).reshape(-1)


def q8_0(values: np.ndarray) -> np.ndarray:
    """Blocks of Q8_0 (uint8, flat) nearest to values; each is off by 1/254 of its block's largest one at most."""
    blocks = values.reshape(-1, BLOCK)
    step = np.maximum(blocks.max(axis=1, keepdims=True), -blocks.min(axis=1, keepdims=True)) / np.float32(127)
    found = np.empty((len(blocks), 2 + BLOCK), np.uint8)
    with np.errstate(all="ignore"):
        codes = blocks * np.where(step > 0, 1 / step, 0)
        found[:, 2:].view(np.int8)[:] = np.rint(codes, out=codes)
        found[:, :2] = step.astype("<f2").view(np.uint8)
    return found.reshape(-1)


def rotated(values: np.ndarray, group: int) -> np.ndarray:
    """Rows times the Hadamard matrix of every `group` columns, which undoes itself.  # [rows, columns]"""
    return (values.reshape(-1, group) @ hadamard(group)).reshape(values.shape)


@cache
def hadamard(group: int) -> np.ndarray:
    """The regular Hadamard matrix of a power of four, over the root of its size.  # [group, group], float32

    Source: ConvRot, as comfy_kitchen has it (tensor/int8_utils.py).
    """
    four = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], np.float32)
    found = four
    while len(found) < group:
        found = np.kron(found, four)
    return found / np.float32(group**0.5)


def read_factors(factors: Factors, read: Read) -> np.ndarray:
    """All factors of a matrix, in float32.  # [rows of tiles, columns of tiles]"""
    return _rows_of_tiles(factors, 0, factors.shape[0], read)


def _factors(run: Run, scaling: Scaling, read: Read, every: int) -> np.ndarray:
    """The product of all factors for every so many columns of a run's rows.  # [rows, columns / every or 1]"""
    first, last = scaling.row, scaling.row + run.elements // scaling.columns
    product = np.full((1, 1), np.float32(run.scale))
    for factors in scaling.factors:
        high, wide = factors.tile
        tiles = _rows_of_tiles(factors, first // high, (last - 1) // high + 1, read)
        rows = np.repeat(tiles, high, axis=0)[first % high :][: last - first]
        if factors.shape[1] > 1:
            rows = np.repeat(rows, wide // every, axis=1)[:, : scaling.columns // every]
        product = product * rows
    return product


def _rows_of_tiles(factors: Factors, first: int, last: int, read: Read) -> np.ndarray:
    layout, width = LAYOUTS[factors.stored], factors.shape[1]
    if not factors.swizzled:
        nbytes = width * layout.nbytes
        return _plain(
            factors.stored, read(factors.path, factors.offset + first * nbytes, (last - first) * nbytes)
        ).reshape(-1, width)
    rows, columns = _SWIZZLED
    groups = -(-width // columns)
    nbytes = groups * rows * columns * layout.nbytes
    begin, end = first // rows, (last - 1) // rows + 1
    blocks = _plain(factors.stored, read(factors.path, factors.offset + begin * nbytes, (end - begin) * nbytes))
    # [blocks of rows, groups of columns, 32, 4, 4]: of a row, what its number leaves by 32 comes before its 32s
    ordered = blocks.reshape(-1, groups, rows // 4, 4, columns).transpose(0, 3, 2, 1, 4).reshape(-1, groups * columns)
    return ordered[first - begin * rows : last - begin * rows, :width]


def _plain(stored: str, raw: Raw) -> np.ndarray:
    if stored in PLAIN:
        return np.frombuffer(raw, PLAIN[stored]).astype(np.float32)
    if stored == "BF16":
        return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    return decoded(stored, 1.0, np.dtype("<f4"), raw)
