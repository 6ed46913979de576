"""The exceptions of native/errors.py as messages: each has its class here, by which the client raises it again."""

from __future__ import annotations

from dataclasses import dataclass

from .. import errors


@dataclass(frozen=True)
class Failed:
    """RunnerError."""

    message: str


@dataclass(frozen=True)
class DeviceMissing:
    """NoDevice."""

    device: str
    message: str


@dataclass(frozen=True)
class NoMemory:
    """OutOfMemory."""

    device: str
    label: str
    requested: int
    free: int


@dataclass(frozen=True)
class WasInterrupted:
    """Interrupted."""

    message: str


@dataclass(frozen=True)
class Lacking:
    """Missing."""

    what: errors.Kind
    digests: tuple[str, ...]


Failure = Failed | DeviceMissing | NoMemory | WasInterrupted | Lacking


def failure(error: Exception) -> Failure:
    """The message for an exception; one that is none of native/errors.py is told with its type."""
    match error:
        case errors.NoDevice():
            return DeviceMissing(error.device, str(error))
        case errors.OutOfMemory():
            return NoMemory(error.device, error.label, error.requested, error.free)
        case errors.Missing():
            return Lacking(error.what, error.digests)
        case errors.Interrupted():
            return WasInterrupted(str(error))
        case errors.RunnerError():
            return Failed(str(error))
    return Failed(f"{type(error).__name__}: {error}")


def exception(failed: Failure) -> Exception:
    """The exception for a message."""
    match failed:
        case DeviceMissing(device, message):
            return errors.NoDevice(device, message)
        case NoMemory(device, label, requested, free):
            return errors.OutOfMemory(device, label, requested, free)
        case Lacking(what, digests):
            return errors.Missing(what, digests)
        case WasInterrupted(message):
            return errors.Interrupted(message)
        case Failed(message):
            return errors.RunnerError(message)
