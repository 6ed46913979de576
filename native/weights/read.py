"""Reading parameters into numpy, for what ComfyUI's process needs of them itself (embeddings, small tensors)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import BinaryIO

import numpy as np

from ..ggml_types import LAYOUTS
from .convert import LOADED, pieces, values
from .weight_file import WeightFileError
from .weight_set import Parameter


def read_parameter(parameter: Parameter) -> np.ndarray:
    """A whole parameter in float32, in its shape (torch order); raises WeightFileError."""
    found = np.empty(prod(parameter.shape), np.float32)
    start = 0
    with _opened(parameter) as file:
        for piece in pieces(replace(parameter, type="F32")):
            part = values(parameter, _bytes(parameter, file, piece.offset, piece.nbytes), LOADED["F32"])
            found[start : start + part.size] = part
            start += part.size
    return found.reshape(parameter.shape)


def read_rows(parameter: Parameter, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Rows of a matrix, as an embedding looks them up, in float32.  # [rows, columns]

    Raises IndexError for a row the matrix has not, WeightFileError for a file that cannot be read.
    """
    count, columns = parameter.shape
    wanted, places = np.unique(np.asarray(rows, np.int64), return_inverse=True)
    if wanted.size and (wanted[0] < 0 or wanted[-1] >= count):
        raise IndexError(f"{parameter.name} has {count:,} rows; {wanted[0]:,} to {wanted[-1]:,} were asked for")
    if not wanted.size:
        return np.empty((0, columns), np.float32)
    if columns % LAYOUTS[parameter.stored].block:
        return read_parameter(parameter)[wanted][places]  # rows that share blocks
    nbytes = parameter.nbytes // count
    with _opened(parameter) as file:
        raw = b"".join(_bytes(parameter, file, parameter.offset + row * nbytes, nbytes) for row in wanted.tolist())
    return values(parameter, raw, LOADED["F32"]).reshape(-1, columns)[places]


def _bytes(parameter: Parameter, file: BinaryIO, offset: int, nbytes: int) -> bytes:
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
