"""Requests for plans, from planner nodes and the HTTP API, and the machine to plan for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import folder_paths

from ...native.client import Device, shared
from ...native.placement import CPU, MIB
from ...native.planning import Machine, Profile, ProfileError, known_profiles, read_profiles
from ..loaders.device_inputs import devices
from ..settings import gpu_reserve
from .device_rates import rates_of
from .unknown import Size, Unknown

log = logging.getLogger(__name__)
REJECT, WARN, FIT = "reject", "warn", "fit"
MODES = (REJECT, WARN, FIT)
THIS_MACHINE = "this machine"
RAM_RESERVE = 0.2  # of all of it


@dataclass(frozen=True)
class PlanRequest:
    """The settings of a plan."""

    mode: str = REJECT
    profile: Profile | None = None  # None: this machine
    gpu_budget: int = 0  # bytes of each GPU; 0: its free memory less a reserve
    ram_budget: int = 0  # bytes
    unknown: Size = field(default_factory=Size)


class RequestError(ValueError):
    """An input of a planner that cannot be honoured; the message is for the user."""

    def __init__(self, name: str, message: str) -> None:
        """name: of the input."""
        super().__init__(message)
        self.name = name


def request_of(inputs: Mapping[str, Any]) -> PlanRequest:
    """The request in a planner node's inputs; missing ones are replaced by defaults.

    Raises RequestError for numbers and modes that are none, ProfileError for unknown hardware.
    """

    def number(name: str, default: int = 0) -> int:
        value = inputs.get(name, default)
        if isinstance(value, Unknown):
            raise RequestError(
                name, f"{name} cannot be known before the workflow runs, as {value.why}. Type a number instead."
            )
        try:
            whole = -1 if isinstance(value, bool) else int(value)  # ComfyUI takes "1" and 1.0 for an INT, too
        except (TypeError, ValueError, OverflowError):
            whole = -1
        if whole < 0:
            raise RequestError(name, f"{name} is {value!r:.80}; it must be a whole number, 0 or more.")
        return whole or default

    mode = inputs.get("mode", REJECT)
    if mode not in MODES:
        raise RequestError("mode", f"mode is {mode!r:.80}; it must be one of {', '.join(MODES)}.")
    return PlanRequest(
        mode,
        profile_named(inputs.get("hardware", THIS_MACHINE)),
        number("gpu_budget") * MIB,
        number("ram_budget") * MIB,
        Size(number("unknown_width"), number("unknown_height"), number("unknown_batch", 1)),
    )


def profile_names() -> list[str]:
    """The options of the `hardware` input."""
    try:
        return [THIS_MACHINE, *profiles()]
    except ProfileError as error:  # raised again where one of these profiles is used
        log.warning("No hardware profiles of your own: %s", error)
        return [THIS_MACHINE, *known_profiles()]


def profile_named(name: Any) -> Profile | None:
    """The profile of that name; None for this machine. Raises ProfileError, which says where users' own go."""
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
    """The profiles of the table and of this user, by name. Raises ProfileError for an unusable file."""
    return {**known_profiles(), **read_profiles(own_profiles())}


def own_profiles() -> Path:
    """The file of a user's own profiles."""
    return Path(folder_paths.get_user_directory()) / "ggml_profiles.json"


def machine_of(request: PlanRequest) -> Machine:
    """The machine to plan for. On this machine memory of loaded models counts as free: they are evicted."""
    if request.profile is not None:
        profile = request.profile
        capacity = {device.name: _capacity(device, device.free, request) for device in profile.devices}
        return Machine(profile.devices, capacity, profile.foreign, profile.name, profile.rates)
    present = tuple(devices())
    held = {device.name: device.held for device in shared().memory().devices}
    capacity = {device.name: _capacity(device, device.free + held.get(device.name, 0), request) for device in present}
    return Machine(present, capacity, rates=rates_of(present))


def _capacity(device: Device, free: int, request: PlanRequest) -> int:
    on_cpu = device.type == CPU
    reserve = int(RAM_RESERVE * device.total) if on_cpu else gpu_reserve()
    return (request.ram_budget if on_cpu else request.gpu_budget) or max(0, min(device.total, free) - reserve)
