"""A device with nothing behind it: what is allocated there is only counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from .devices import Device
from .library import ggml

_SOMEWHERE = 1 << 12  # an address that nobody reads: ggml's allocator leaves alone what has one


class StandIn(Device):
    """Like `device`, with `capacity` bytes that are all free at first."""

    def __init__(self, device: Device, capacity: int) -> None:
        vars(self).update(vars(device))
        self.held = self.peak = 0
        self.capacity = capacity
        self._backend = None

    def memory(self) -> tuple[int, int]:
        """As Device."""
        return max(0, self.capacity - self.held), self.capacity

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
