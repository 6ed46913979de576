"""The devices that a workflow is planned for: this machine's or a profile's, and how much of each it may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..wire.messages import Device, DeviceInfo


@dataclass(frozen=True)
class Machine:
    """capacity: bytes by device's name. imagined: the devices of a machine that is not this one; profile: its name."""

    devices: tuple[Device, ...]
    capacity: Mapping[str, int]
    foreign: tuple[DeviceInfo, ...] = ()
    profile: str = ""
