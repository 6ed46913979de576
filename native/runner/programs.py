"""The serialised programs that the client has sent."""

from __future__ import annotations

from collections import OrderedDict

from .errors import Missing

_KEPT_BYTES = 32 << 20


class Programs:
    """By digest; those used last are kept, and the client sends one again when it is asked for."""

    def __init__(self) -> None:
        self._programs: OrderedDict[str, bytes] = OrderedDict()

    def __getitem__(self, digest: str) -> bytes:
        """Raises Missing."""
        if digest not in self._programs:
            raise Missing("the program is not known", what="program", digest=digest)
        self._programs.move_to_end(digest)
        return self._programs[digest]

    def add(self, digest: str, serialised: bytes) -> None:
        """Keep a program, and of the others as many as there is room for."""
        self._programs[digest] = serialised
        while len(self._programs) > 1 and sum(map(len, self._programs.values())) > _KEPT_BYTES:
            self._programs.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._programs.clear()
