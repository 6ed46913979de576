"""Weights as torch computes with them, read from their file and dequantized a few rows at a time.

Read, not mapped: a file that is cut short under a mapping would take ComfyUI's process down with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from math import prod

import numpy as np
import torch
from torch import Tensor

from ...ggml_types import LAYOUTS
from ...weights import Parameter, WeightFileError, WeightSet, check_unchanged
from ...weights.convert import values
from ...weights.weight_set import ARRAY_TYPES, runs
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
            return torch.from_numpy(array).to(torch.float32, copy=True)
        parameter = self.weights.parameters[name]
        found = torch.empty(prod(parameter.shape))
        self._read(parameter, 0, found)
        return found.view(parameter.shape)

    def by_rows(self, name: str, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """Runs of rows of a matrix [rows, columns], and the number of the first; a run lasts until the next one."""
        array = self.weights.arrays.get(name)
        if array is not None:
            yield 0, torch.from_numpy(array).to(dtype)
            return
        parameter = self.weights.parameters[name]
        rows, columns = parameter.shape
        if columns % LAYOUTS[parameter.stored].block:  # rows share blocks
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
        layout = LAYOUTS[parameter.stored]
        offset = start // layout.block * layout.nbytes
        if PLAIN.get(parameter.stored) == out.dtype and parameter.scale == 1.0:
            self._fill(parameter, offset, out.view(torch.uint8))
            return
        step = max(1, CHUNK // layout.block) * layout.block
        for first in range(0, out.numel(), step):
            part = out[first : first + step]
            nbytes = part.numel() // layout.block * layout.nbytes
            raw = self._buffer(torch.uint8, nbytes)[:nbytes]
            self._fill(parameter, offset, raw)
            part.copy_(_values(parameter, raw))
            offset += nbytes

    def _fill(self, parameter: Parameter, offset: int, raw: Tensor) -> None:
        """Fill `raw` (uint8) with the stored bytes from `offset` on."""
        try:
            file = self._files.get(parameter.path)
            if file is None:
                file = self._files[parameter.path] = FileIO(parameter.path)
            whole, filled = memoryview(raw.numpy().data), 0
            for place, length in runs(parameter, offset, raw.numel()):
                file.seek(place)
                target = whole[filled : filled + length]
                while target and (count := file.readinto(target)):
                    target = target[count:]
                if target:
                    break
                filled += length
        except OSError as error:
            raise WeightFileError(
                f"{parameter.path} can no longer be read: {error.strerror}. Choose the file again."
            ) from error
        if filled < raw.numel():
            raise WeightFileError(
                f"{parameter.path} ends inside the tensor of {parameter.name}: it was cut short after its header was "
                "read. Download or copy it again."
            )

    def _buffer(self, dtype: torch.dtype, count: int) -> Tensor:
        buffer = self._buffers.get(dtype)
        if buffer is None or buffer.numel() < count:
            buffer = self._buffers[dtype] = torch.empty(count, dtype=dtype)
        return buffer


def _values(parameter: Parameter, raw: Tensor) -> Tensor:
    """Dequantize whole stored blocks (uint8); flat, in float32 or exactly as stored."""
    layout = LAYOUTS[parameter.stored]
    if parameter.stored in BLOCKS:
        return BLOCKS[parameter.stored](raw.view(-1, layout.nbytes)).flatten()
    if parameter.stored in PLAIN:
        found = raw.view(PLAIN[parameter.stored])
        return found if parameter.scale == 1.0 else found.float() * float(np.float32(parameter.scale))
    return torch.from_numpy(values(parameter, raw.numpy(), np.dtype("<f4")))
