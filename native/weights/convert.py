"""Stored bytes to loaded values: by piece for the runner, whole or by rows for ComfyUI's process.

FP8, BF16, F64, codes with scales and quantized blocks become what ggml or numpy computes with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any, BinaryIO

import numpy as np

from ..ggml_types import LAYOUTS
from .codes import PLAIN, decoded
from .runs import Run, between
from .scaling import Raw, Read, keeps_codes, q4_0_of_codes, q8_0, q8_0_of_codes, scaled
from .weight_file import WeightFileError
from .weight_set import LARGEST_F16, Parameter

PIECE = 4 << 20  # bytes, loaded; converting a piece takes up to four times that
ROW = 4096  # elements; gguf works on 16 rows at a time, and short rows keep that in the CPU's cache
LOADED: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
CODES = ("F8_E4M3", "F8_E5M2", "I8", "I4", "E2M1")


@dataclass(frozen=True, slots=True)
class Piece:
    """Elements of a parameter: where files have them, and the bytes that they become in the loaded tensor."""

    run: Run
    target: int  # bytes from the start of the loaded tensor
    target_nbytes: int  # in the loaded tensor


def pieces(parameter: Parameter, limit: int = PIECE) -> Iterator[Piece]:
    """Cuts a parameter into runs of at most `limit` loaded bytes (but what belongs together at least), in its order.

    Columns that stay turned are no longer said to be.
    """
    loaded, target = LAYOUTS[parameter.type], 0
    for run in parameter.runs:
        if parameter.rotation and run.scaling:
            run = replace(run, scaling=replace(run.scaling, rotation=0))
        step = run.unit * max(1, limit // max(1, run.unit // loaded.block * loaded.nbytes))
        for first in range(0, run.elements, step):
            for part in run.cut(first, min(first + step, run.elements)):
                nbytes = part.elements // loaded.block * loaded.nbytes
                yield Piece(part, target, nbytes)
                target += nbytes


def convert(type_: str, run: Run, read: Read) -> np.ndarray:
    """A run in its loaded form, flat: the same bytes (uint8) where nothing changes, blocks (uint8), else float32/16.

    Raises WeightFileError where quantized blocks cannot be read, or scales take values out of F16's range.
    """
    if run.is_as_loaded(type_):
        return np.frombuffer(_raw(run, read), np.uint8)
    if type_ == "Q4_0":
        return q4_0_of_codes(run, np.frombuffer(_raw(run, read), np.uint8), read)
    if type_ == "Q8_0":
        if keeps_codes(run):
            return q8_0_of_codes(run, np.frombuffer(_raw(run, read), np.int8), read)
        return q8_0(values(run, read, LOADED["F32"]))
    if run.scaling is None or type_ == "F32":
        return values(run, read, LOADED[type_])
    wide = values(run, read, LOADED["F32"])
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = wide.astype(LOADED[type_])
    largest = max(wide.max(), -wide.min())
    if LARGEST_F16 < largest < np.inf:
        raise WeightFileError(
            f"{run.path} has a {run.stored} weight whose scales take it to {largest:.4g}, beyond F16's "
            "65,504, in which it is computed. The file is damaged, or another file of this model is needed."
        )
    return narrow


def values(run: Run, read: Read, dtype: np.dtype) -> np.ndarray:
    """A run as values of `dtype`, flat, times its scales."""
    raw = _raw(run, read)
    if run.scaling is not None:
        codes = decoded(run.stored, 1.0, LOADED["F32"], raw)
        with np.errstate(over="ignore", invalid="ignore"):
            return scaled(run, codes, read).astype(dtype, copy=False)
    if run.stored in CODES:
        return decoded(run.stored, run.scale, dtype, raw)
    if run.stored in PLAIN:
        unscaled = np.frombuffer(raw, PLAIN[run.stored])
    elif run.stored == "BF16":
        unscaled = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        unscaled = dequantize(run.stored, np.frombuffer(raw, np.uint8))
    with np.errstate(over="ignore", invalid="ignore"):  # infinite and NaN weights pass through, as in torch
        if run.scale != 1.0:
            unscaled = unscaled.astype(np.float32) * np.float32(run.scale)
        return unscaled.astype(dtype, copy=False)


def _raw(run: Run, read: Read) -> Raw:
    """The stored bytes of a run, in place where it is one part."""
    if run.parts == 1:
        return read(run.path, run.offset, run.nbytes)
    found = [read(run.path, run.offset + index * run.stride, run.nbytes) for index in range(run.parts)]
    return np.concatenate([np.frombuffer(part, np.uint8) for part in found])


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
    with reader(parameter.name) as read:
        for piece in pieces(replace(parameter, type="F32", rotation=0)):
            part = values(piece.run, read, LOADED["F32"])
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
    if any(columns % run.grain or run.elements % columns for run in parameter.runs):
        return read_parameter(parameter)[distinct][inverse]  # rows that share blocks
    found = []
    with reader(parameter.name) as read:
        for row in distinct.tolist():
            runs = between(parameter.runs, row * columns, (row + 1) * columns)
            found.append(np.concatenate([values(run, read, LOADED["F32"]) for run in runs]))
    return np.stack(found)[inverse]


@contextmanager
def reader(name: str) -> Iterator[Read]:
    """The function that reads bytes of files, which stay open as long; it raises WeightFileError.

    name: of what is read, for messages.
    """
    files: dict[str, BinaryIO] = {}

    def read(path: str, offset: int, nbytes: int) -> bytes:
        try:
            file = files.get(path)
            if file is None:
                file = files[path] = stack.enter_context(open(path, "rb"))  # noqa: SIM115 (the stack is one)
            file.seek(offset)
            raw = file.read(nbytes)
        except OSError as error:
            raise WeightFileError(f"{path} can no longer be read: {error.strerror}. Choose the file again.") from error
        if len(raw) < nbytes:
            raise WeightFileError(
                f"{path} ends at byte {offset + len(raw):,}, inside the tensor of {name}: it was cut short after its "
                "header was read. Download or copy it again."
            )
        return raw

    with ExitStack() as stack:
        yield read
