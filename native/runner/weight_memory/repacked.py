"""Weights of the CPU in the layout its fastest matrix kernels read: private copies, made once, each given back alone.

The layout (ggml-cpu/repack.cpp) is known to mul_mat only, of a whole weight or of some of its rows. Whatever else uses
a weight needs it as its file has it.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import Interrupted
from ...ggml_types import LAYOUTS
from ...program import Program, Tensor
from ...program.ops import OPERATIONS, View
from ..device.buffers import Allocation, Ne, allocate, describe, require
from ..device.devices import Device
from ..ggml_binding import context, ggml
from ..process_memory import trim_heap

_PROBE_TOKENS = 4
_TOGETHER = 16  # rows that the widest of the layouts weaves into one another


@dataclass(frozen=True)
class Source:
    """A weight as its mapped file has it, `nbytes` from `offset` of the mapping on."""

    name: str
    type: str
    ne: Ne
    mapping: mmap.mmap | None  # None: of a file that is not open
    offset: int
    nbytes: int


class Repacked:
    """The repacked copies of a weight set's matrices, on one device."""

    def __init__(self, device: Device) -> None:
        self.nbytes = 0  # allocated for them
        self._device = device
        self._copies: dict[str, Allocation] = {}

    def tensor(self, name: str) -> Any:
        """The repacked tensor of a weight, None where it has none."""
        copy = self._copies.get(name)
        return copy.tensors[name] if copy else None

    def make(
        self, sources: Sequence[Source], what: str, advance: Callable[[int], None], interrupted: Callable[[], bool]
    ) -> None:
        """Repack weights on as many threads as the device computes with; `advance` gets the bytes of each done.

        Raises OutOfMemory or Interrupted; `free` after either.
        """
        require(self._device, what, sum(source.nbytes for source in sources))
        with ThreadPoolExecutor(self._device.threads) as pool:
            try:
                repacking = {pool.submit(self.fill, self._place(source, what), source): source for source in sources}
                for done in as_completed(repacking):
                    done.result()
                    if interrupted():
                        raise Interrupted(f"repacking {what} was interrupted")
                    advance(repacking[done].nbytes)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def fill(self, tensor: Any, source: Source) -> None:
        """Repack a weight; its pages of the file go back to the system."""
        assert source.mapping is not None
        self._device.write(tensor, np.frombuffer(source.mapping, np.uint8, source.nbytes, source.offset))
        if sys.platform == "linux":  # these pages were read once and count as ours until they are let go
            first = -(-source.offset // mmap.PAGESIZE) * mmap.PAGESIZE
            whole = (source.offset + source.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
            if whole > 0:
                source.mapping.madvise(mmap.MADV_DONTNEED, first, whole)

    def not_repackable(self, program: Program) -> set[str]:
        """The weights here that some operation of the program cannot take repacked, or that it gives out."""
        rows = program.tensors
        leaving = {rows[output.tensor].name for output in program.outputs if rows[output.tensor].kind == "weight"}
        parts = {index: row.sources[0] for index, row in enumerate(rows) if _is_part(rows, row)}
        for index, row in enumerate(rows):
            for position, source in enumerate(() if index in parts else row.sources):
                weight = rows[parts.get(source, source)]
                if weight.name in self._copies and not self._is_taken(row, position, weight, rows[row.sources[-1]]):
                    leaving.add(weight.name)
        return leaving & self._copies.keys()

    def free_copies(self, names: Iterable[str]) -> None:
        """Free the copies of these weights."""
        leaving = [self._copies.pop(name) for name in names]
        for copy in leaving:
            self.nbytes -= copy.nbytes
            copy.free()
        if leaving:
            trim_heap()

    def free(self) -> None:
        """Free all of them."""
        self.free_copies(list(self._copies))

    def _is_taken(self, row: Tensor, position: int, weight: Tensor, columns: Tensor) -> bool:
        """Whether an operation can take a weight, at that position of its sources, repacked."""
        if row.kind != "op" or OPERATIONS[row.name].repacked != position:
            return False
        return columns.type == "F32" and _multiplies(self._device, self.tensor(weight.name), columns.ne)

    def _place(self, source: Source, what: str) -> Any:
        copy = describe(self._device, [(source.name, source.type, source.ne)])
        self._copies[source.name] = copy
        allocate(copy, [source.name], what, buffer_type=self._device.repack_buffer_type)
        self.nbytes += copy.nbytes
        return copy.tensors[source.name]


def _is_part(rows: Sequence[Tensor], row: Tensor) -> bool:
    """Whether a row of the table is rows of a weight that lie in its repacked layout as in a matrix of their own."""
    if row.name != "view" or rows[row.sources[0]].kind != "weight":
        return False
    weight, layout = rows[row.sources[0]], LAYOUTS[row.type]
    view = View._make(row.parameters)
    whole = row.ne[0] == weight.ne[0] and row.ne[2:] == (1, 1) and view.nb1 == row.ne[0] // layout.block * layout.nbytes
    return whole and row.ne[1] % _TOGETHER == 0 and view.offset % (view.nb1 * _TOGETHER) == 0


def repackable(device: Device, type_: str, ne: Ne) -> bool:
    """Whether the device has a repacked layout for such a matrix."""
    if device.repack_buffer_type is None:
        return False
    probe = describe(device, [("matrix", type_, ne)])
    probe.adopt(ggml.ggml_backend_buft_alloc_buffer(device.repack_buffer_type, 0), 0)
    try:
        matrix = probe.tensors["matrix"]
        matrix.contents.buffer = probe.buffers[0]
        return _multiplies(device, matrix, (ne[0], _PROBE_TOKENS, 1, 1))
    finally:
        probe.free()


def _multiplies(device: Device, matrix: Any, columns: Ne) -> bool:
    """What ggml answers for the product of a matrix, where it lies, with F32 columns of that ne.

    Columns in four dimensions are beyond the kernel, which ends the process although ggml says yes.
    """
    ne = tuple(matrix.contents.ne)
    if ne[2:] != (1, 1) or columns[0] != ne[0] or min(columns) < 1 or columns[3] != 1:
        return False
    described = context(2)
    try:
        factor = ggml.ggml_new_tensor(described, LAYOUTS["F32"].number, 4, (ctypes.c_int64 * 4)(*columns))
        product = ggml.ggml_mul_mat(described, matrix, factor)
        return bool(ggml.ggml_backend_dev_supports_op(device.handle, product))
    finally:
        ggml.ggml_free(described)
