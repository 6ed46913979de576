"""Stored bytes to loaded values: FP8, BF16, F64 and quantized blocks to what ggml or numpy computes with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from ..ggml_types import LAYOUTS
from .dequantize import dequantize
from .weight_set import Parameter

PIECE = 4 << 20  # bytes, loaded; converting a piece takes up to four times that
LOADED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
PLAIN = LOADED | {"F64": np.dtype("<f8")}
Raw = bytes | memoryview | np.ndarray


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of whole blocks of a parameter: where it is in the file, and where in the loaded tensor (bytes)."""

    offset: int  # from the start of the file
    nbytes: int
    target: int  # from the start of the loaded tensor
    target_nbytes: int


def pieces(parameter: Parameter, limit: int = PIECE) -> Iterator[Piece]:
    """Cuts a parameter into runs of at most `limit` loaded bytes (but a block at least), in the file's order."""
    stored, loaded = LAYOUTS[parameter.stored], LAYOUTS[parameter.type]
    block_nbytes = stored.block // loaded.block * loaded.nbytes  # loaded
    blocks = prod(parameter.shape) // stored.block
    step = max(1, limit // block_nbytes)
    for first in range(0, blocks, step):
        count = min(step, blocks - first)
        yield Piece(
            offset=parameter.offset + first * stored.nbytes,
            nbytes=count * stored.nbytes,
            target=first * block_nbytes,
            target_nbytes=count * block_nbytes,
        )


def convert(parameter: Parameter, raw: Raw) -> np.ndarray:
    """The loaded form of whole stored blocks, flat: the bytes where nothing changes, else float32 or float16.

    Raises WeightFileError where quantized blocks cannot be read.
    """
    if parameter.type == parameter.stored and parameter.scale == 1.0:
        return np.frombuffer(raw, np.uint8)
    return values(parameter, raw, LOADED[parameter.type])


def values(parameter: Parameter, raw: Raw, dtype: np.dtype) -> np.ndarray:
    """The values, flat, that whole stored blocks of a parameter stand for, as `dtype`."""
    if parameter.stored.startswith("F8_"):
        return _f8_values(parameter.stored, parameter.scale, dtype)[np.frombuffer(raw, np.uint8)]
    if parameter.stored in PLAIN:
        found = np.frombuffer(raw, PLAIN[parameter.stored])
    elif parameter.stored == "BF16":
        found = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        found = dequantize(parameter.stored, np.frombuffer(raw, np.uint8))
    with np.errstate(over="ignore", invalid="ignore"):  # infinite and NaN weights pass through, as in torch
        if parameter.scale != 1.0:
            found = found.astype(np.float32) * np.float32(parameter.scale)
        return found.astype(dtype, copy=False)


@lru_cache(maxsize=64)
def _f8_values(stored: str, scale: float, dtype: np.dtype) -> np.ndarray:
    """What each of the 256 bytes stands for. E4M3 is the "FN" form: no infinity, NaN at 0x7F and 0xFF (OCP OFP8)."""
    byte = np.arange(256, dtype=np.uint16)
    if stored == "F8_E5M2":
        unscaled = (byte << 8).view(np.float16).astype(np.float32)
    else:
        exponent, mantissa = (byte >> 3 & 15).astype(np.int32), (byte & 7).astype(np.float32)
        magnitude = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(mantissa + 8, exponent - 10))
        unscaled = np.where(byte & 127 == 127, np.nan, magnitude) * np.where(byte & 128, -1, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        return (unscaled.astype(np.float32) * np.float32(scale)).astype(dtype)
