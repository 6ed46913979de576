"""ComfyUI's side of the runner: starts it, speaks to it, brings it back when it dies."""

from ..wire.messages import Device, DeviceMemory, LoadReport, Measurement, MemoryReport, ModelMemory
from .errors import Cancelled, OutOfMemory, RunnerError, RunnerLost
from .runner import Runner, another, shared

__all__ = [
    "Cancelled",
    "Device",
    "DeviceMemory",
    "LoadReport",
    "Measurement",
    "MemoryReport",
    "ModelMemory",
    "OutOfMemory",
    "Runner",
    "RunnerError",
    "RunnerLost",
    "another",
    "shared",
]
