"""The arena: one block of memory that client and runner both see, for the tensors of one call.

Linux: a memory file descriptor that the runner inherits, so nothing has a name that could be left behind.
Windows: an anonymous mapping with a tag, which the system drops with the last process that holds it.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
import tempfile

from ..errors import RunnerError
from ..placement import MIB

ALIGNMENT = 64  # bytes; every tensor in the arena starts at a multiple of it
if sys.platform == "win32":

    def _create() -> tuple[int | None, str]:
        return None, f"native-runner-{os.getpid()}-{secrets.token_hex(8)}"

    def _map(descriptor: int | None, name: str, size: int) -> mmap.mmap:
        return mmap.mmap(-1, size, tagname=f"{name}-{size}")  # a tag's size is fixed: each size is a mapping of its own

else:

    def _create() -> tuple[int | None, str]:
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("native-runner")
        else:  # no name in a file system either: the file is unlinked before anyone can see it
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        return descriptor, str(descriptor)

    def _map(descriptor: int | None, name: str, size: int) -> mmap.mmap:
        return mmap.mmap(int(name), size)


class Arena:
    """Shared memory that grows: `name` is how the runner finds it, `descriptor` what it inherits (None on Windows)."""

    def __init__(self) -> None:
        self.descriptor, self.name = _create()
        self.size = 0
        self.memory: memoryview = memoryview(b"")

    def reserve(self, size: int) -> None:
        """Make it hold at least `size` bytes; what it held before may be gone. Raises RunnerError."""
        if size <= self.size:
            return
        size = -(-size // MIB) * MIB  # to whole MiB
        self.memory, self.size = memoryview(b""), 0
        try:
            if self.descriptor is not None:
                os.ftruncate(self.descriptor, size)
            self.memory = memoryview(_map(self.descriptor, self.name, size))
        except OSError as error:
            raise RunnerError(
                f"The system gives no {size / MIB:,.0f} MiB of shared memory to the process that runs the models: "
                f"{error.strerror}. Close other programs, or choose a smaller picture."
            ) from error
        self.size = size

    def close(self) -> None:
        """Give the memory back once nobody else holds it."""
        self.memory = memoryview(b"")
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


class ArenaView:
    """The runner's side: maps the arena again whenever the client has made it larger."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._size = 0
        self._memory = memoryview(b"")

    def memory(self, size: int) -> memoryview:
        """The arena's bytes; `size` is what the client says it holds now."""
        if size != self._size:
            self._memory = memoryview(b"")
            self._memory = memoryview(_map(None, self._name, size))
            self._size = size
        return self._memory


def layout(sizes: list[int]) -> tuple[list[int], int]:
    """Offsets of blocks laid one after the other, and the bytes they take together."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return offsets, end
