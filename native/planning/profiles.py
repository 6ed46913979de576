"""Profiles of other machines to plan for: a table of usual graphics cards, and users' own descriptions.

A description is JSON, with amounts in MiB: {"name", "system": "linux" or "win32", "ram", "ram_free", "gpus":
[{"description", "type", "memory", "free", "resizable_bar", "features", "tflops", "bandwidth"}]}. The last two are
of the card's data sheet: 10^12 floating-point operations (F32, or F16 where products of matrices have units of their
own) and 10^9 bytes of its memory a second; with them a plan tells seconds, marked as not measured. `description` is the
driver's name for the card, from which the runner derives its quirks. The RX 580's free memory on Linux is that of
llama.cpp #5441, less the window of 256 MiB that the runner does not use; desktops and other programs are covered by the
planner's reserve.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..placement import CPU, MIB
from ..wire.messages import Device, DeviceInfo
from .rates import Rates, published_rates

_RAM_IN_USE = 3 << 10  # MiB of a system, a browser and ComfyUI with torch; the default of ram - ram_free
_LARGEST_BUFFER = 1 << 30  # bytes; ggml-vulkan allocates more only for a larger tensor (suballocation_block_size)
_FASTEST = 1e6  # of a number in a data sheet
_SYSTEMS = ("linux", "win32", "darwin")


class ProfileError(ValueError):
    """A hardware description that cannot be used. The message is for the user."""


@dataclass(frozen=True)
class Profile:
    """A machine that is not this one."""

    name: str
    devices: tuple[Device, ...]  # as its runner would report them
    foreign: tuple[DeviceInfo, ...]  # what its runner's quirks are derived from
    rates: Mapping[str, Rates] = field(default_factory=dict)  # published ones, by device


@cache
def known_profiles() -> Mapping[str, Profile]:
    """The profiles of profiles.json, by name."""
    descriptions = json.loads(Path(__file__).with_name("profiles.json").read_text(encoding="utf-8"))
    return {described["name"]: profile_of(described) for described in descriptions}


def read_profiles(path: Path) -> dict[str, Profile]:
    """The profiles in a user's file, by name; none where there is no file. Raises ProfileError, naming the file."""
    try:
        descriptions = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ProfileError(f"{path} cannot be read: {error}") from error
    if not isinstance(descriptions, list):
        raise ProfileError(f"{path} must hold a list of descriptions of machines: [{{...}}, ...].")
    try:
        return {profile.name: profile for profile in map(profile_of, descriptions)}
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from error


def profile_of(described: Any) -> Profile:
    """The profile of a description. Raises ProfileError for one that cannot be used."""
    if not isinstance(described, Mapping):
        raise ProfileError("a machine is described by a JSON object")
    name, system = _text(described, "name"), _text(described, "system")
    if system not in _SYSTEMS:
        raise ProfileError(f"the system of {name!r} is {system!r}; it can be {', '.join(_SYSTEMS)}")
    gpus = described.get("gpus", [])
    if not isinstance(gpus, list) or not all(isinstance(gpu, Mapping) for gpu in gpus):
        raise ProfileError(f"the gpus of {name!r} must be a list of JSON objects")
    ram = _mib(described, "ram")
    rows = [_gpu(f"Vulkan{index}", gpu, system) for index, gpu in enumerate(gpus)]
    free = _mib(described, "ram_free", max(0, ram - _RAM_IN_USE * MIB))
    rows.append((Device(CPU, CPU, CPU, free, ram, ram, ()), DeviceInfo(CPU, CPU, CPU, (), False, system)))
    rates = {f"Vulkan{index}": found for index, gpu in enumerate(gpus) if (found := _published(gpu))}
    return Profile(name, tuple(device for device, _ in rows), tuple(foreign for _, foreign in rows), rates)


def described_machine(devices: Sequence[Device], system: str) -> dict[str, Any]:
    """The description of a machine with these devices, with which others can plan for it. system: sys.platform."""
    (cpu,) = (device for device in devices if device.type == CPU)
    gpus = [
        {
            "description": device.description,
            "type": device.type,
            "memory": device.total // MIB,
            "free": device.free // MIB,
            "resizable_bar": not device.small_bar,
            "features": list(device.features),
        }
        for device in devices
        if device.type in ("GPU", "IGPU")
    ]
    ram = {"ram": cpu.total // MIB, "ram_free": cpu.free // MIB}
    return {"name": cpu.description, "system": system, **ram, "gpus": gpus}


def _gpu(name: str, gpu: Mapping[str, Any], system: str) -> tuple[Device, DeviceInfo]:
    description, type_ = _text(gpu, "description"), gpu.get("type", "GPU")
    if type_ not in ("GPU", "IGPU"):
        raise ProfileError(f"the type of {description!r} is {type_!r}; it can be GPU, or IGPU for one that uses RAM")
    features = gpu.get("features", [])
    if not isinstance(features, list) or not all(isinstance(each, str) for each in features):
        raise ProfileError(f"the features of {description!r} must be a list of words, as GGML Devices shows them")
    memory, small_bar = _mib(gpu, "memory"), gpu.get("resizable_bar", True) is False
    free = min(_mib(gpu, "free", memory), memory)
    names = tuple(features)
    device = Device(name, description, type_, free, memory, min(_LARGEST_BUFFER, memory), names, (), small_bar)
    return device, DeviceInfo(name, type_, description, names, small_bar, system)


def _published(gpu: Mapping[str, Any]) -> Rates | None:
    """The rates of a card by its data sheet; None where the description has none."""
    if "tflops" not in gpu and "bandwidth" not in gpu:
        return None
    given = gpu.get("tflops"), gpu.get("bandwidth")
    numbers = [float(each) for each in given if isinstance(each, (int, float)) and not isinstance(each, bool)]
    if len(numbers) != 2 or not all(0 < each < _FASTEST for each in numbers):
        raise ProfileError(f"tflops and bandwidth of {gpu.get('description')!r} must be numbers above 0")
    return published_rates(numbers[0] * 1e12, numbers[1] * 1e9)


def _text(described: Mapping[str, Any], key: str) -> str:
    value = described.get(key)
    if not isinstance(value, str) or not value:
        raise ProfileError(f"a description of a machine or GPU needs a {key}, which is text")
    return value


def _mib(described: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """An amount in MiB, as bytes. Raises ProfileError."""
    value = described.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or not 0 <= value < 1 << 30:
        raise ProfileError(f"{key} must be a whole number of MiB, and is {value!r}")
    return value * MIB
