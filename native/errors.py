"""Exceptions of the runner: raised in it, sent to the client, and raised there again.

The messages are for the person at the node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from .placement import MIB

Kind = Literal["weights", "program", "arrays", "inputs"]
IsInterrupted = Callable[[], bool]  # whether the caller wants an early end


class RunnerError(RuntimeError):
    """A request that cannot be done; the runner is unharmed."""


class RunnerLost(RunnerError):
    """The runner's process ended twice over the same request, or cannot be started."""


class NoDevice(RunnerError):
    """The runner's drivers list no such device."""

    def __init__(self, device: str, message: str) -> None:
        super().__init__(message)
        self.device = device


class OutOfMemory(RunnerError):
    """A device has too little memory for what `label` names; requested and free: bytes."""

    def __init__(self, device: str, label: str, requested: int, free: int, message: str = "") -> None:
        """message: instead of the usual one."""
        super().__init__(
            message
            or f"{label} needs {requested / MIB:,.1f} MiB on {device}, where {free / MIB:,.1f} MiB are free. "
            "Unload other models, choose a smaller picture or a smaller file, or place this model on another device."
        )
        self.device = device
        self.label = label
        self.requested = requested
        self.free = free


class NotFinite(RunnerError):
    """A result holds values that are infinite or not a number."""


class Missing(RunnerError):
    """The runner does not hold what a request names, and the client is to send it.

    digests: of programs or arrays; or the names of inputs.
    """

    def __init__(self, what: Kind, digests: tuple[str, ...] = ()) -> None:
        super().__init__(f"the runner lacks the {what} for this: {', '.join(digests) or 'they are not loaded'}")
        self.what = what
        self.digests = digests


class Interrupted(Exception):
    """The caller's `interrupted` was true before the request was done."""
