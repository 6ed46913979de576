"""Weights as torch computes with them, read from their file and dequantized a few rows at a time.

Read, not mapped: a file that is cut short under a mapping would take ComfyUI's process down with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import FileIO
from math import prod

import numpy as np
import torch
from torch import Tensor

from ...ggml_types import LAYOUTS
from ...weights import Parameter, WeightFileError, WeightSet, check_unchanged, content
from ...weights.convert import values
from ...weights.runs import Run, between
from ...weights.scaling import Read
from ...weights.weight_set import ARRAY_TYPES
from .dequantize import BLOCKS

# Elements. What is dequantized at a time stays in the processor's cache; so does what is multiplied.
CHUNK, SCRATCH = 1 << 20, 1 << 22
PLAIN = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def array_values(array: np.ndarray) -> Tensor:
    """An array of a weight set as a tensor on the same memory."""
    return (
        torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        if array.dtype == np.uint16
        else torch.from_numpy(array)
    )


class Values:
    """The values of a weight set for one run; what it allocates is all that a run holds of the weights.

    Raises WeightFileError where a file changed since its header was read.
    """

    def __init__(self, weights: WeightSet) -> None:
        check_unchanged(weights)
        self.weights = weights
        self._files: dict[str, FileIO] = {}
        self._buffers: dict[torch.dtype, Tensor] = {}

    def close(self) -> None:
        """Close the files and free the buffers."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._buffers.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def stored(self, name: str) -> str:
        """The type that a weight is stored in."""
        array = self.weights.arrays.get(name)
        return self.weights.parameters[name].stored if array is None else ARRAY_TYPES[str(array.dtype)]

    def whole(self, name: str) -> Tensor:
        """A weight in float32, in memory of its own."""
        array = self.weights.arrays.get(name)
        if array is not None:
            return array_values(content(array)).to(torch.float32, copy=True)
        parameter = self.weights.parameters[name]
        found = torch.empty(prod(parameter.shape))
        self._read(parameter, 0, found)
        return found.view(parameter.shape)

    def by_rows(self, name: str, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """Runs of rows of a matrix [rows, columns], and the number of the first; a run lasts until the next one."""
        array = self.weights.arrays.get(name)
        if array is not None:
            yield 0, array_values(content(array)).to(dtype)
            return
        parameter = self.weights.parameters[name]
        rows, columns = parameter.shape
        if any(columns % run.grain or run.elements % columns for run in parameter.runs):  # rows share blocks
            yield 0, self.whole(name).to(dtype)
            return
        step = min(rows, max(1, SCRATCH // columns))
        buffer = self._buffer(dtype, step * columns)
        for first in range(0, rows, step):
            run = buffer[: min(step, rows - first) * columns]
            self._read(parameter, first * columns, run)
            yield first, run.view(-1, columns)

    def _read(self, parameter: Parameter, start: int, out: Tensor) -> None:
        """Fill `out` (flat) with the values from element `start` on, which begins a block."""
        done = 0
        for run in between(parameter.runs, start, start + out.numel()):
            self._read_run(parameter.name, run, out[done : done + run.elements])
            done += run.elements

    def _read_run(self, name: str, run: Run, out: Tensor) -> None:
        if PLAIN.get(run.stored) == out.dtype and run.is_as_loaded(run.stored):
            self._fill(name, run, out.view(torch.uint8))
            return
        step = run.unit * max(1, CHUNK // run.unit)
        for first in range(0, run.elements, step):
            for part in run.cut(first, min(first + step, run.elements)):
                target = out[first : first + part.elements]
                if run.scaling is None:
                    raw = self._buffer(torch.uint8, part.stored_bytes)[: part.stored_bytes]
                    self._fill(name, part, raw)
                    target.copy_(_values(part, raw))
                else:
                    target.copy_(torch.from_numpy(values(part, self._bytes(name), np.dtype("<f4"))))

    def _fill(self, name: str, run: Run, raw: Tensor) -> None:
        """Fill `raw` (uint8) with the bytes of a run of the weight `name`."""
        for index, part in enumerate(raw.split(run.nbytes)):
            self._fill_part(name, run.path, run.offset + index * run.stride, part)

    def _bytes(self, name: str) -> Read:
        """The function that reads bytes of files for the weight `name`."""

        def read(path: str, offset: int, nbytes: int) -> np.ndarray:
            raw = torch.empty(nbytes, dtype=torch.uint8)
            self._fill_part(name, path, offset, raw)
            return raw.numpy()

        return read

    def _fill_part(self, name: str, path: str, offset: int, raw: Tensor) -> None:
        try:
            file = self._files.get(path)
            if file is None:
                file = self._files[path] = FileIO(path)
            file.seek(offset)
            target = memoryview(raw.numpy().data)
            while target and (count := file.readinto(target)):
                target = target[count:]
        except OSError as error:
            raise WeightFileError(f"{path} can no longer be read: {error.strerror}. Choose the file again.") from error
        if target:
            raise WeightFileError(
                f"{path} ends inside the tensor of {name}: it was cut short after its header was read. Download or "
                "copy it again."
            )

    def _buffer(self, dtype: torch.dtype, count: int) -> Tensor:
        buffer = self._buffers.get(dtype)
        if buffer is None or buffer.numel() < count:
            buffer = self._buffers[dtype] = torch.empty(count, dtype=dtype)
        return buffer


def _values(run: Run, raw: Tensor) -> Tensor:
    """Dequantize the stored bytes (uint8) of a run; flat, in float32 or exactly as stored."""
    layout = LAYOUTS[run.stored]
    if run.stored in BLOCKS:
        return BLOCKS[run.stored](raw.view(-1, layout.nbytes)).flatten()
    if run.stored in PLAIN:
        found = raw.view(PLAIN[run.stored])
        return found if run.scale == 1.0 else found.float() * float(np.float32(run.scale))
    return torch.from_numpy(values(replace(run, parts=1), lambda *_: raw.numpy(), np.dtype("<f4")))
