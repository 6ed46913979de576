"""Stored bytes to loaded values: by piece for the runner, whole or by rows for ComfyUI's process.

FP8, BF16, F64 and quantized blocks become what ggml or numpy computes with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd, prod
from typing import Any, BinaryIO

import numpy as np

from ..ggml_types import LAYOUTS
from .weight_file import WeightFileError
from .weight_set import Parameter, runs

PIECE = 4 << 20  # bytes, loaded; converting a piece takes up to four times that
ROW = 4096  # elements; gguf works on 16 rows at a time, and short rows keep that in the CPU's cache
LOADED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
PLAIN = LOADED | {"F64": np.dtype("<f8")}
Raw = bytes | memoryview | np.ndarray


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of whole blocks of a parameter: its bytes in the file, and those it becomes in the loaded tensor."""

    offset: int  # bytes from the start of the stored ones
    nbytes: int  # in the file
    target: int  # bytes from the start of the loaded tensor
    target_nbytes: int  # in the loaded tensor


def pieces(parameter: Parameter, limit: int = PIECE) -> Iterator[Piece]:
    """Cuts a parameter into runs of at most `limit` loaded bytes (but a block at least), in the file's order."""
    stored, loaded = LAYOUTS[parameter.stored], LAYOUTS[parameter.type]
    block_nbytes = stored.block // loaded.block * loaded.nbytes  # loaded
    blocks = prod(parameter.shape) // stored.block
    step = max(1, limit // block_nbytes)
    for first in range(0, blocks, step):
        count = min(step, blocks - first)
        yield Piece(
            offset=first * stored.nbytes,
            nbytes=count * stored.nbytes,
            target=first * block_nbytes,
            target_nbytes=count * block_nbytes,
        )


def convert(parameter: Parameter, raw: Raw) -> np.ndarray:
    """Whole stored blocks in their loaded form, flat: the same bytes (uint8) where nothing changes, else float32/16.

    Raises WeightFileError where quantized blocks cannot be read.
    """
    if parameter.type == parameter.stored and parameter.scale == 1.0:
        return np.frombuffer(raw, np.uint8)
    return values(parameter, raw, LOADED[parameter.type])


def values(parameter: Parameter, raw: Raw, dtype: np.dtype) -> np.ndarray:
    """Whole stored blocks of a parameter as values of `dtype`, flat, times the parameter's scale."""
    if parameter.stored.startswith("F8_"):
        return _f8_values(parameter.stored, parameter.scale, dtype)[np.frombuffer(raw, np.uint8)]
    if parameter.stored in PLAIN:
        unscaled = np.frombuffer(raw, PLAIN[parameter.stored])
    elif parameter.stored == "BF16":
        unscaled = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        unscaled = dequantize(parameter.stored, np.frombuffer(raw, np.uint8))
    with np.errstate(over="ignore", invalid="ignore"):  # infinite and NaN weights pass through, as in torch
        if parameter.scale != 1.0:
            unscaled = unscaled.astype(np.float32) * np.float32(parameter.scale)
        return unscaled.astype(dtype, copy=False)


@lru_cache(maxsize=64)
def _f8_values(stored: str, scale: float, dtype: np.dtype) -> np.ndarray:
    """The value of each of the 256 FP8 bytes.  # [256]

    E4M3 is the "FN" form: no infinity, NaN at 0x7F and 0xFF (OCP OFP8).
    """
    byte = np.arange(256, dtype=np.uint16)
    if stored == "F8_E5M2":
        unscaled = (byte << 8).view(np.float16).astype(np.float32)
    else:
        exponent, mantissa = (byte >> 3 & 15).astype(np.int32), (byte & 7).astype(np.float32)
        magnitude = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(mantissa + 8, exponent - 10))
        unscaled = np.where(byte & 127 == 127, np.nan, magnitude) * np.where(byte & 128, -1, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        return (unscaled.astype(np.float32) * np.float32(scale)).astype(dtype)


def dequantize(stored: str, raw: np.ndarray) -> np.ndarray:
    """Whole quantized blocks (uint8, flat) as float32 (flat), by the gguf package.

    Raises WeightFileError where that package is missing or does not know the type.
    """
    try:
        from gguf import GGMLQuantizationType, quants  # 0.3 s, and most files never need it
    except ImportError as error:
        raise WeightFileError(
            f"The Python package gguf is needed to read {stored} weights. Install this pack's requirements.txt."
        ) from error
    layout = LAYOUTS[stored]
    row = layout.nbytes * gcd(raw.size // layout.nbytes, max(1, ROW // layout.block))
    with np.errstate(all="ignore"):  # the scales of a damaged file may be NaN or infinite
        try:
            return quants.dequantize(raw.reshape(-1, row), GGMLQuantizationType(layout.number)).reshape(-1)
        except (NotImplementedError, ValueError) as error:
            raise WeightFileError(
                f"The installed Python package gguf cannot read {stored} weights: {error}. Update it."
            ) from error


def read_parameter(parameter: Parameter) -> np.ndarray:
    """Reads a whole parameter as float32, in its shape (torch order). Raises WeightFileError."""
    result = np.empty(prod(parameter.shape), np.float32)
    start = 0
    with _opened(parameter) as file:
        for piece in pieces(replace(parameter, type="F32")):
            part = values(parameter, _read_bytes(parameter, file, piece.offset, piece.nbytes), LOADED["F32"])
            result[start : start + part.size] = part
            start += part.size
    return result.reshape(parameter.shape)


def read_rows(parameter: Parameter, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Reads rows of a matrix as float32, such as the embeddings of tokens.  # [rows, columns]

    Raises IndexError for a row beyond the matrix, WeightFileError for a file that cannot be read.
    """
    count, columns = parameter.shape
    distinct, inverse = np.unique(np.asarray(rows, np.int64), return_inverse=True)
    if distinct.size and (distinct[0] < 0 or distinct[-1] >= count):
        raise IndexError(f"{parameter.name} has {count:,} rows; {distinct[0]:,} to {distinct[-1]:,} were requested")
    if not distinct.size:
        return np.empty((0, columns), np.float32)
    if columns % LAYOUTS[parameter.stored].block:
        return read_parameter(parameter)[distinct][inverse]  # rows that share blocks
    nbytes = parameter.nbytes // count
    with _opened(parameter) as file:
        raw = b"".join(_read_bytes(parameter, file, row * nbytes, nbytes) for row in distinct.tolist())
    return values(parameter, raw, LOADED["F32"]).reshape(-1, columns)[inverse]


def _read_bytes(parameter: Parameter, file: BinaryIO, start: int, nbytes: int) -> bytes:
    return b"".join(_read_run(parameter, file, *run) for run in runs(parameter, start, nbytes))


def _read_run(parameter: Parameter, file: BinaryIO, offset: int, nbytes: int) -> bytes:
    file.seek(offset)
    raw = file.read(nbytes)
    if len(raw) < nbytes:
        raise WeightFileError(
            f"{parameter.path} ends at byte {offset + len(raw):,}, inside the tensor of {parameter.name}: it was cut "
            "short after its header was read. Download or copy it again."
        )
    return raw


@contextmanager
def _opened(parameter: Parameter) -> Iterator[BinaryIO]:
    try:
        with open(parameter.path, "rb") as file:
            yield file
    except OSError as error:
        raise WeightFileError(
            f"{parameter.path} can no longer be read: {error.strerror}. Choose the file again."
        ) from error
