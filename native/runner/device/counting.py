"""A device with nothing behind it: what is allocated there is only counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...wire.messages import DeviceInfo
from ..ggml_binding import ggml
from .devices import Device
from .quirks import traits_of

_SOMEWHERE = 1 << 12  # an address that nobody reads: ggml's allocator leaves alone what has one


class CountingDevice(Device):
    """Like `device`, with `capacity` bytes that are all free at first."""

    def __init__(self, device: Device, capacity: int) -> None:
        vars(self).update(vars(device))
        self.held = self.peak = self.request_peak = 0
        self.capacity = capacity
        self.in_ram: Sequence[Device] = ()  # itself and what else takes of `ram` bytes together with it
        self.ram = 0
        self._backend = None

    def become(self, info: DeviceInfo) -> None:
        """Be a device of another machine."""
        self.name, self.type, self.description, self.features = info.name, info.type, info.description, info.features
        self.traits = traits_of(info)

    def memory(self) -> tuple[int, int]:
        """As Device."""
        free = self.capacity - self.held
        if self.in_ram:
            free = min(free, self.ram - sum(device.held for device in self.in_ram))
        return max(0, free), self.capacity

    def new_buffer(self, buffer_type: int, size: int) -> Any:
        """A buffer of that type without any memory."""
        return ggml.ggml_backend_buft_alloc_buffer(buffer_type, 0)

    def put(self, tensor: Any, buffer: Any, offset: int) -> None:
        """A place that nobody looks at, in a buffer of the type that ggml asks for."""
        tensor.contents.buffer = buffer
        tensor.contents.data = _SOMEWHERE

    def write(self, tensor: Any, data: np.ndarray, offset: int = 0) -> None:
        """Nothing."""

    def place_graph(self, allocator: int, graph: Any) -> bool:
        """Nothing; it would succeed."""
        return True
