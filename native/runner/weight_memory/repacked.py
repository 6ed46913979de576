"""Repacks weights into the layout of the CPU's fastest matrix kernels: private copies, each freed alone.

The layout (ggml-cpu/repack.cpp) is known to mul_mat only, of a whole weight or of some of its rows. Whatever else uses
a weight needs it as its file has it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from ...ggml_types import LAYOUTS
from ...heap import trim_heap
from ...program import Program, Tensor
from ...program.ops import OPERATIONS
from ...program.parameters import View
from ...program.tensor import ne_of
from ...weights.weight_set import Parameter
from ..device.buffers import Allocation, Ne, allocate, describe, require
from ..device.devices import Device
from ..ggml_binding import context, ggml
from .files import FileSource, LoadProgress

_PROBE_TOKENS = 4
_TOGETHER = 16  # rows that the widest of the layouts weaves into one another


class Repacked:
    """The repacked copies of a weight set's matrices, on one device."""

    def __init__(self, device: Device, source: FileSource) -> None:
        self.weight_bytes = 0  # device memory allocated for them
        self._device = device
        self._source = source
        self._copies: dict[str, Allocation] = {}

    def tensor(self, name: str) -> Any:
        """The repacked tensor of a weight, None where it has none."""
        copy = self._copies.get(name)
        return copy.tensors[name] if copy else None

    def make(self, parameters: Sequence[Parameter], label: str, loading: LoadProgress) -> None:
        """Repack weights on as many threads as the device computes with.

        Raises OutOfMemory or Interrupted; `free` after either.
        """
        require(self._device, label, sum(parameter.nbytes for parameter in parameters))
        with ThreadPoolExecutor(self._device.limits.threads) as pool:
            try:
                repacking = {pool.submit(self._fill, p, self._allocate(p, label)): p for p in parameters}
                for done in as_completed(repacking):
                    done.result()
                    loading.check()
                    loading.advance(repacking[done].nbytes)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

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
            self.weight_bytes -= copy.nbytes
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

    def _allocate(self, parameter: Parameter, label: str) -> Any:
        copy = describe(self._device, [(parameter.name, parameter.type, ne_of(parameter.shape))])
        self._copies[parameter.name] = copy
        allocate(copy, [parameter.name], label, self._device.repack_buffer_type)
        self.weight_bytes += copy.nbytes
        return copy.tensors[parameter.name]

    def _fill(self, parameter: Parameter, tensor: Any) -> None:
        """Repack a weight, which ggml does as it is written."""
        self._device.write(tensor, self._source.stored(parameter))
        self._source.release(parameter)


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
    """Whether ggml supports the product of a matrix, where it lies, with F32 columns of that ne.

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
