"""What a planner node, or a caller of the API, asks for; and the machine that this is about."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import folder_paths

from ...native.client import Device, shared
from ...native.placement import MIB
from ...native.planning import Machine, Profile, ProfileError, known_profiles, read_profiles
from ..loaders.device_inputs import devices
from ..settings import gpu_reserve
from .unknown import Size

log = logging.getLogger(__name__)
REJECT, WARN, FIT = "reject", "warn", "fit"
MODES = (REJECT, WARN, FIT)
THIS_MACHINE = "this machine"
RAM_RESERVE = 0.2  # of all of it


@dataclass(frozen=True)
class PlanRequest:
    """Budgets in bytes, 0: what is free less a reserve. profile: None for this machine."""

    mode: str = REJECT
    profile: Profile | None = None
    gpu_budget: int = 0
    ram_budget: int = 0
    unknown: Size = field(default_factory=Size)


def request_of(inputs: Mapping[str, Any]) -> PlanRequest:
    """What a planner node's inputs say; what they do not say, or say wrongly, is as usual.

    Raises ProfileError for hardware that is not known.
    """

    def number(name: str, default: int = 0) -> int:
        value = inputs.get(name, default)
        return value if type(value) is int and value > 0 else default

    mode = inputs.get("mode")
    return PlanRequest(
        mode if mode in MODES else REJECT,
        profile_named(inputs.get("hardware", THIS_MACHINE)),
        number("gpu_budget") * MIB,
        number("ram_budget") * MIB,
        Size(number("unknown_width"), number("unknown_height"), number("unknown_batch", 1)),
    )


def profile_names() -> list[str]:
    """What the `hardware` input offers."""
    try:
        return [THIS_MACHINE, *profiles()]
    except ProfileError as error:  # said again by what names one of these profiles
        log.warning("No hardware profiles of your own: %s", error)
        return [THIS_MACHINE, *known_profiles()]


def profile_named(name: Any) -> Profile | None:
    """The profile of that name, None for this machine; raises ProfileError, which says where to put one's own."""
    if name == THIS_MACHINE:
        return None
    known = profiles()
    if not isinstance(name, str) or name not in known:
        raise ProfileError(
            f"There is no hardware profile {name!r}. There are: {', '.join(known)}. "
            f"Profiles of your own go into {own_profiles()}."
        )
    return known[name]


def profiles() -> dict[str, Profile]:
    """The table's, and those of this user; raises ProfileError for a file of theirs that cannot be used."""
    return {**known_profiles(), **read_profiles(own_profiles())}


def own_profiles() -> Path:
    """Where a user puts profiles."""
    return Path(folder_paths.get_user_directory()) / "ggml_profiles.json"


def machine_of(asked: PlanRequest) -> Machine:
    """What the workflow may take, and of what. On this machine models that are there make room."""
    if asked.profile is not None:
        found = asked.profile.devices
        capacity = {device.name: _capacity(device, device.free, asked) for device in found}
        return Machine(found, capacity, asked.profile.foreign, asked.profile.name)
    found = tuple(devices())
    held = {device.name: device.held for device in shared().memory().devices}
    capacity = {device.name: _capacity(device, device.free + held.get(device.name, 0), asked) for device in found}
    return Machine(found, capacity)


def _capacity(device: Device, free: int, asked: PlanRequest) -> int:
    on_cpu = device.type == "CPU"
    reserve = int(RAM_RESERVE * device.total) if on_cpu else gpu_reserve()
    return (asked.ram_budget if on_cpu else asked.gpu_budget) or max(0, min(device.total, free) - reserve)
