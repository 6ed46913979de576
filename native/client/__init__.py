"""ComfyUI's side of the runner: starts it, speaks to it, brings it back when it dies."""

from .errors import Cancelled, OutOfMemory, RunnerError, RunnerLost
from .reports import Device, DeviceMemory, LoadReport, Measurement, MemoryReport, ModelMemory
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
