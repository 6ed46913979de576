"""Weights that the client sent instead of a file, such as LoRA matrices, shared by the digest of their content."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import RunnerError
from ...program.tensor import ne_of
from ..device.buffers import Allocation, allocate, describe
from ..device.devices import Device
from ..ggml_binding import ggml


class Arrays:
    """Weights that came from the client's memory, by the digest of their content, on one device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._groups: dict[str, Allocation] = {}  # by array digest; those that were placed together share one
        self._empty: set[str] = set()  # placed, not yet filled

    def place(self, arrays: list[tuple[str, str, tuple[int, ...]]], label: str) -> list[str]:
        """Make room for arrays (digest, ggml type, shape); returns the digests whose content is still to come."""
        new = {digest: (type_, shape) for digest, type_, shape in arrays if digest not in self._groups}
        if new:
            described = [(digest, type_, ne_of(shape)) for digest, (type_, shape) in new.items()]
            allocation = describe(self._device, described)
            try:
                allocate(allocation, list(new), label)
            except RunnerError:
                allocation.free()
                raise
            self._groups.update(dict.fromkeys(new, allocation))
            self._empty.update(new)
        return [digest for digest, _, _ in arrays if digest in self._empty]

    def fill(self, digest: str, data: np.ndarray) -> None:
        """Upload the content of a placed array; raises RunnerError when it is not the size that was announced."""
        tensor = self.tensor(digest)
        if data.nbytes != ggml.ggml_nbytes(tensor):
            raise RunnerError(f"the array {digest} has {data.nbytes} bytes where {ggml.ggml_nbytes(tensor)} belong")
        self._device.write(tensor, data)
        self._empty.discard(digest)

    def tensor(self, digest: str) -> Any:
        """The placed tensor."""
        if digest not in self._groups:
            raise RunnerError(f"no array {digest} was announced")
        return self._groups[digest].tensors[digest]

    def weight_bytes(self, digests: set[str]) -> int:
        """Bytes of these arrays themselves, alignment not counted."""
        return sum(ggml.ggml_nbytes(self.tensor(digest)) for digest in digests)

    def keep(self, used: set[str]) -> None:
        """Free what was placed together and is no longer used at all."""
        alive = {id(self._groups[digest]) for digest in used if digest in self._groups}
        gone = {id(allocation): allocation for allocation in self._groups.values() if id(allocation) not in alive}
        self._groups = {digest: allocation for digest, allocation in self._groups.items() if id(allocation) not in gone}
        self._empty &= set(self._groups)
        for allocation in gone.values():
            allocation.free()
