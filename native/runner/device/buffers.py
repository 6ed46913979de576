"""Places tensors in device memory: exact sizes first, several buffers where a device's largest one is too small."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

from ...errors import OutOfMemory, RunnerError
from ...ggml_types import LAYOUTS
from ..ggml_binding import context, ggml
from .devices import Device

Ne = tuple[int, int, int, int]


class Allocation:
    """Named tensors in buffers of a device."""

    def __init__(self, tensors: dict[str, Any], described_in: Any, device: Device) -> None:
        self.tensors = tensors
        self.device = device
        self.nbytes = 0  # allocated on the device, not counting memory mapped from files
        self._context = described_in
        self.buffers: list[Any] = []

    def adopt(self, buffer: Any, allocated: int) -> None:
        """Free `buffer` together with this; `allocated` bytes of it are device memory of our own."""
        self.buffers.append(buffer)
        self.nbytes += allocated
        self.device.hold(allocated)

    def free(self) -> None:
        """Give all memory back; the tensors are gone with it."""
        for buffer in self.buffers:
            ggml.ggml_backend_buffer_free(buffer)
        self.buffers.clear()
        self.device.freed(self.nbytes)
        self.nbytes = 0
        if self._context:
            ggml.ggml_free(self._context)
            self._context = None
        self.tensors = {}


def describe(device: Device, tensors: Iterable[tuple[str, str, Ne]]) -> Allocation:
    """Tensors (name, ggml type, ne) without memory."""
    listed = list(tensors)
    made = context(len(listed))
    named = {}
    for name, type_, ne in listed:
        number = LAYOUTS[type_].number
        if number is None or ne[0] % LAYOUTS[type_].block:
            ggml.ggml_free(made)
            raise RunnerError(f"the tensor {name} cannot be {type_} with {ne[0]} elements a row")
        named[name] = ggml.ggml_new_tensor(made, number, 4, (ctypes.c_int64 * 4)(*ne))
    return Allocation(named, made, device)


def allocate(
    allocation: Allocation, names: Iterable[str], what: str, largest: int | None = None, buffer_type: int | None = None
) -> None:
    """Give the tensors `names` memory on their device; `what` is for the message of OutOfMemory.

    No buffer is larger than the device's largest (or `largest` bytes), but for a single tensor that is.
    buffer_type: of the device; its usual one unless it is said.
    """
    device = allocation.device
    buffer_type = buffer_type or device.buffer_type
    limit = min(ggml.ggml_backend_buft_get_max_size(buffer_type), largest or 1 << 62)
    groups: list[tuple[list[tuple[Any, int]], int]] = []  # tensors with offsets, bytes of their buffer
    for name in names:
        tensor = allocation.tensors[name]
        size = device_bytes(buffer_type, tensor)
        if groups and groups[-1][1] + size <= limit:
            members, end = groups[-1]
            members.append((tensor, end))
            groups[-1] = members, end + size
        else:
            groups.append(([(tensor, 0)], size))
    require(device, what, sum(size for _, size in groups))
    for members, size in groups:
        buffer = new_buffer(device, buffer_type, size, what)
        allocation.adopt(buffer, size)
        for tensor, offset in members:
            device.put(tensor, buffer, offset)


def device_bytes(buffer_type: int, tensor: Any) -> int:
    """Bytes that a tensor takes in a buffer of that type, up to where the next may begin."""
    alignment = ggml.ggml_backend_buft_get_alignment(buffer_type)
    return -(-ggml.ggml_backend_buft_get_alloc_size(buffer_type, tensor) // alignment) * alignment


def new_buffer(device: Device, buffer_type: int, size: int, what: str) -> Any:
    """A buffer for weights; raises OutOfMemory when the driver refuses."""
    buffer = device.new_buffer(buffer_type, size)
    if not buffer:
        raise OutOfMemory(device.name, f"{what} (a buffer the driver refused)", size, device.memory()[0])
    ggml.ggml_backend_buffer_set_usage(buffer, 1)  # GGML_BACKEND_BUFFER_USAGE_WEIGHTS
    return buffer


def require(device: Device, what: str, nbytes: int) -> None:
    """Raise OutOfMemory unless the device has `nbytes` free."""
    free, _ = device.memory()
    if nbytes > free:
        raise OutOfMemory(device.name, what, nbytes, free)
