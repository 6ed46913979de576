"""What the runner answers when a request cannot be done; the client turns each into its own exception."""

from __future__ import annotations

from typing import Any


class RequestError(Exception):
    """A request that fails without harm to the runner; the message is for the person at the node."""

    kind = "failed"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details

    def reply(self) -> dict[str, Any]:
        """The error as it travels in a frame."""
        return {"kind": self.kind, "message": str(self), **self.details}


class OutOfMemory(RequestError):
    """details: device, what, requested and free in bytes."""

    kind = "memory"

    def __init__(self, device: str, what: str, requested: int, free: int) -> None:
        message = (
            f"{what} needs {requested / 2**20:,.1f} MiB on {device}, where {free / 2**20:,.1f} MiB are free. "
            "Unload other models, choose a smaller picture or a smaller file, or place this model on another device."
        )
        super().__init__(message, device=device, what=what, requested=requested, free=free)


class Interrupted(RequestError):
    """The client asked for an end before the request was done."""

    kind = "interrupted"


class Missing(RequestError):
    """The runner does not hold what the request names; details: what ("weights", "program", "array"), digest."""

    kind = "missing"
