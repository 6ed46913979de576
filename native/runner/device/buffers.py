"""Allocates tensors in device memory: exact sizes, several buffers where one is too small, budgets of components.

All sizes in bytes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...errors import OutOfMemory, RunnerError
from ...ggml_types import LAYOUTS
from ...placement import MIB
from ..ggml_binding import context, ggml
from .devices import Device

Ne = tuple[int, int, int, int]


class Allocation:
    """Named tensors in buffers of a device."""

    def __init__(self, tensors: dict[str, Any], described_in: Any, device: Device) -> None:
        self.tensors = tensors
        self.device = device
        self.nbytes = 0  # allocated on the device; what is mapped from files is not
        self._context = described_in
        self.buffers: list[Any] = []

    def adopt(self, buffer: Any, allocated: int) -> None:
        """Free `buffer`, if there is one, together with this; `allocated` bytes of it are device memory of its own."""
        if buffer:
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


def allocate(allocation: Allocation, names: Iterable[str], label: str, buffer_type: int | None = None) -> None:
    """Give the tensors `names` memory on their device; no buffer is larger than its largest, but for a single tensor.

    label: for the message. buffer_type: of the device; its usual one unless it is said. Raises OutOfMemory.
    """
    device = allocation.device
    buffer_type = buffer_type or device.buffer_type
    limit = device.max_buffer(buffer_type)
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
    require(device, label, sum(size for _, size in groups))
    for members, size in groups:
        buffer = new_buffer(device, buffer_type, size, label)
        allocation.adopt(buffer, size)
        for tensor, offset in members:
            device.put(tensor, buffer, offset)


def device_bytes(buffer_type: int, tensor: Any) -> int:
    """The size of a tensor in a buffer of that type, up to where the next may begin."""
    alignment = ggml.ggml_backend_buft_get_alignment(buffer_type)
    return -(-ggml.ggml_backend_buft_get_alloc_size(buffer_type, tensor) // alignment) * alignment


def new_buffer(device: Device, buffer_type: int, size: int, label: str) -> Any:
    """A buffer for weights; raises OutOfMemory when the driver refuses."""
    buffer = device.new_buffer(buffer_type, size)
    if not buffer:
        raise OutOfMemory(device.name, f"{label} (a buffer the driver refused)", size, device.memory()[0])
    ggml.ggml_backend_buffer_set_usage(buffer, 1)  # GGML_BACKEND_BUFFER_USAGE_WEIGHTS
    return buffer


def require(device: Device, label: str, nbytes: int) -> None:
    """Raise OutOfMemory unless the device has `nbytes` free."""
    free, _ = device.memory()
    if nbytes > free:
        raise OutOfMemory(device.name, label, nbytes, free)


@dataclass(frozen=True)
class Budget:
    """The bytes of a device that a component may take, and those that its weights take already."""

    total: int
    taken: int

    @property
    def headroom(self) -> int:
        """Bytes left beside the weights; negative where they alone are too much."""
        return self.total - self.taken


class OverBudget(RunnerError):
    """A component for which its budget is too small; the message names the smallest that is enough."""

    def __init__(self, name: str, device: str, budget: Budget, computing: int, passing: int) -> None:
        """computing: for the compute buffer and constants; passing: for what streamed weights pass through."""
        weights = budget.taken + passing
        needed = -(-(computing + weights) // MIB)
        ram = "" if passing else ', choose "ram" for its weights'
        super().__init__(
            f"The budget of {name} on {device} is {budget.total // MIB:,} MiB, but it needs {needed:,} MiB: "
            f"{weights / MIB:,.1f} for weights and {computing / MIB:,.1f} to compute. Raise the budget to "
            f"{needed:,}{ram}, or make the picture smaller."
        )
