"""What the runner may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """threads: of the CPU device. The others in bytes, or else as said, below what the devices say of themselves."""

    threads: int
    largest_buffer: int | None = None  # any device
    device_memory: int | None = None  # each device but the CPU
    largest_segment: float | None = None  # operations that a device is given at once
