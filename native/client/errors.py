"""What can go wrong with the runner, as the person at the node reads it."""

from __future__ import annotations

from typing import Any


class RunnerError(RuntimeError):
    """The runner could not do what was asked."""


class RunnerLost(RunnerError):
    """The runner's process ended twice over the same request."""


class OutOfMemory(RunnerError):
    """A device has too little memory; `requested` and `free` in bytes."""

    def __init__(self, message: str, device: str, what: str, requested: int, free: int) -> None:
        super().__init__(message)
        self.device = device
        self.what = what
        self.requested = requested
        self.free = free


class Interrupted(Exception):
    """The caller's `interrupted` said so, and the runner stopped."""


def from_reply(error: dict[str, Any]) -> Exception:
    """The exception for an error that the runner answered."""
    if error["kind"] == "memory":
        return OutOfMemory(error["message"], error["device"], error["what"], error["requested"], error["free"])
    if error["kind"] == "interrupted":
        return Interrupted(error["message"])
    return RunnerError(error["message"])
