"""Writes a file of random weights for a program, of such sizes that results stay near one."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from ..ggml_types import LAYOUTS
from ..program import Program, Tensor
from ..program.ops import is_view
from ..program.tensor import nbytes
from ..weights.runs import Run
from ..weights.weight_set import Parameter, WeightSet
from .blocks import Work

_ALIGNMENT = 4096
_DRAWN = 1 << 20  # random numbers of a weight; a larger one repeats them
# The deviation of a block's values whose bytes are random and whose scale is 1; the bytes at which F16 scales stand;
# and the one that is subtracted, so that the mean is 0: its place, and how many times the scale it is.
_SPREAD = {"Q4_0": 4.6, "Q8_0": 74.0, "Q4_K": 260.0, "Q5_K": 530.0, "Q6_K": 1370.0}
_SCALE_AT = {"Q6_K": 208}
_MINIMUM = {"Q4_K": 7.5, "Q5_K": 15.5}  # in the two bytes after the scale
TYPES = ("F32", "F16", *_SPREAD)  # of matrices


def write_weights(path: Path, work: Work) -> WeightSet:
    """A file with the weights of a program: those with values as they are, the others random, the same at each call."""
    parameters: dict[str, Parameter] = {}
    uses = _uses(work.program)
    with path.open("wb") as file:
        for row in work.program.tensors:
            if row.kind != "weight" or row.name in parameters:
                continue
            file.write(bytes(-file.tell() % _ALIGNMENT))
            run = Run(str(path), row.type, file.tell(), nbytes(row))
            file.write(_content(row, work.values, uses[row.name]).tobytes())
            parameters[row.name] = Parameter(row.name, row.type, tuple(reversed(row.ne)), (run,))
    status = path.stat()
    return WeightSet(work.label, parameters, ((str(path), status.st_size, status.st_mtime_ns),))


def _uses(program: Program) -> dict[str, tuple[Tensor, int, Tensor]]:
    """By weight: an operation that reads it, as which of its sources, and the first of these."""
    found = {}
    rows = program.tensors
    for row in rows:
        for position, source in enumerate(row.sources if not is_view(row) else ()):
            root = rows[source]
            while is_view(root):
                root = rows[root.sources[0]]
            if root.kind == "weight":
                found[root.name] = row, position, rows[row.sources[0]]
    return found


def _content(row: Tensor, values: Mapping[str, np.ndarray], use: tuple[Tensor, int, Tensor]) -> np.ndarray:
    if row.name in values:
        return values[row.name]
    reader, position, first = use
    count = prod(row.ne)
    if row.type == "I32":
        return np.arange(count, dtype="<i4") % (first.ne[1] if reader.name == "get_rows" else count)
    rng = np.random.default_rng(zlib.crc32(f"{row.name} {row.ne}".encode()))
    matrix = position == 0 and reader.name in ("mul_mat", "conv_2d", "conv_3d", "conv_2d_dw")
    inner = row.ne[0] if reader.name == "mul_mat" else prod(row.ne[:3])
    if row.type not in ("F32", "F16"):
        return _blocks(rng, row.type, count, inner**-0.5)
    drawn = rng.standard_normal(min(count, _DRAWN), "f4")
    if matrix:
        drawn *= inner**-0.5
    elif reader.name in ("sqrt", "log") or (reader.name == "div" and position == 1):
        drawn = np.abs(drawn) + np.float32(0.5)
    elif position and count == max(row.ne):  # norms, biases
        drawn = drawn * np.float32(0.1) + np.float32(reader.name == "mul")
    return np.resize(drawn.astype("<f2" if row.type == "F16" else "<f4"), count)


def _blocks(rng: np.random.Generator, type_: str, count: int, deviation: float) -> np.ndarray:
    """Blocks of a quantized type whose values have about this deviation and the mean 0."""
    layout = LAYOUTS[type_]
    number = count // layout.block
    drawn = rng.integers(0, 256, (min(number, _DRAWN // layout.block), layout.nbytes), np.uint8)
    scale, at = deviation / _SPREAD[type_], _SCALE_AT.get(type_, 0)
    drawn[:, at : at + 2] = np.array([scale], "<f2").view(np.uint8)
    if type_ in _MINIMUM:
        drawn[:, at + 2 : at + 4] = np.array([scale * _MINIMUM[type_]], "<f2").view(np.uint8)
    return np.resize(drawn, number * layout.nbytes)
