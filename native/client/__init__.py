"""ComfyUI's side of the runner: starts it, speaks to it, brings it back when it dies."""

from ..errors import Interrupted, OutOfMemory, RunnerError, RunnerLost
from ..wire.messages import Device, DeviceMemory, Estimate, LoadReport, MemoryReport, ModelMemory
from .runner import Runner, another, shared, switch_off

__all__ = [
    "Device",
    "DeviceMemory",
    "Estimate",
    "Interrupted",
    "LoadReport",
    "MemoryReport",
    "ModelMemory",
    "OutOfMemory",
    "Runner",
    "RunnerError",
    "RunnerLost",
    "another",
    "shared",
    "switch_off",
]
