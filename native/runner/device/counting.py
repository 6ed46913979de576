"""A device that counts the memory it is asked for, and has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...placement import CPU
from ...wire.messages import DeviceInfo
from ..ggml_binding import ggml
from .devices import Device, Devices
from .quirks import is_software

_SOFTWARE_RANGE = 1 << 27  # bytes of a tensor that shaders reach on lavapipe (Mesa, lp_limits.h); 4 GiB on cards
_SOMEWHERE = 1 << 12  # an address that nobody reads: ggml's allocator leaves alone what has one


class CountingDevice(Device):
    """Has `capacity` bytes that are all free at first; nothing is allocated, written or computed."""

    def __init__(self, model: Device, capacity: int, info: DeviceInfo | None = None) -> None:
        """model: a real device, whose ggml device tells sizes and what operations are supported.

        info: of the device that this one counts for, where that is another one than `model`.
        """
        super().__init__(
            info or model.info, model.handle, (model.buffer_type, model.repack_buffer_type), model.limits, model.driver
        )
        self._is_another_card = info is not None and is_software(model.description)
        self._capacity = capacity
        self._sharers: Sequence[Device] = ()  # itself and the others that take from the same RAM
        self._ram = 0  # bytes of it

    def share_ram(self, nbytes: int, sharers: Sequence[Device]) -> None:
        """From now on all of `sharers` together, itself among them, have no more than that."""
        self._ram, self._sharers = nbytes, sharers

    def memory(self) -> tuple[int, int]:
        """Free and total bytes, by what is counted."""
        free = self._capacity - self.held
        if self._sharers:
            free = min(free, self._ram - sum(device.held for device in self._sharers))
        return max(0, free), self._capacity

    def supports(self, operation: Any) -> bool:
        """As Device; a software driver that answers for a card has a limit to a tensor's size that the card has not."""
        if super().supports(operation):
            return True
        tensors = [operation, *(source for source in operation.contents.src if source)]
        return self._is_another_card and any(ggml.ggml_nbytes(tensor) > _SOFTWARE_RANGE for tensor in tensors)

    def new_buffer(self, buffer_type: int, size: int) -> Any:
        """A buffer of that type without any memory."""
        return ggml.ggml_backend_buft_alloc_buffer(buffer_type, 0)

    def map_buffer(self, data: np.ndarray) -> Any:
        """No buffer: `put` needs none."""
        return None

    def put(self, tensor: Any, buffer: Any, offset: int) -> None:
        """Give a tensor a place that nobody looks at, in a buffer of the type that ggml asks for."""
        tensor.contents.buffer = buffer
        tensor.contents.data = _SOMEWHERE

    def write(self, tensor: Any, data: np.ndarray, offset: int = 0) -> None:
        """Nothing is written."""

    def place_graph(self, allocator: int, graph: Any) -> bool:
        """True; nothing is allocated."""
        return True

    def compute(self, graph: Any) -> int:
        """GGML_STATUS_SUCCESS; nothing is computed."""
        return 0


def counting_devices(real: Devices, capacity: Mapping[str, int], foreign: Sequence[DeviceInfo]) -> Devices:
    """A counting device for each that has a capacity in bytes; those that compute in RAM take of the CPU's too.

    foreign: those among them that belong to another machine. Raises RunnerError for one that is nowhere.
    """
    infos = {each.name: each for each in foreign}
    made = [_counting_device(real, name, nbytes, infos.get(name)) for name, nbytes in capacity.items()]
    in_ram = [device for device in made if device.type in (CPU, "IGPU") or is_software(device.description)]
    for device in in_ram if CPU in capacity else ():
        device.share_ram(capacity[CPU], in_ram)
    return Devices(made, lambda: made)


def _counting_device(real: Devices, name: str, nbytes: int, info: DeviceInfo | None) -> CountingDevice:
    """For a device of another machine, one that is modelled on a device of its driver, or on the CPU."""
    if info is None:
        return CountingDevice(real.find(name), nbytes)
    kind = name.rstrip("0123456789")
    alike = [device for device in real.all() if device.name.rstrip("0123456789") == kind]
    return CountingDevice((alike or [real.find(CPU)])[0], nbytes, info)
