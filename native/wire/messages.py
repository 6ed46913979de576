"""The messages between ComfyUI's process and the runner; all sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..placement import Placement
from ..program import Program
from ..weights.weight_set import WeightSet


@dataclass(frozen=True)
class Step:
    """A call of Runner.load, run (of `program`), unload or measure."""

    do: Literal["load", "run", "unload", "estimate"]
    weights: WeightSet
    placement: Placement
    program: Program | None = None


@dataclass(frozen=True)
class ExternalModel:
    """A model that comes into a process of its own, such as a language model.

    taken: bytes by device and by what they are for. kept: it stays when the next model is loaded, until another of its
    kind comes.
    """

    name: str
    taken: Mapping[str, Mapping[str, int]]
    kept: bool


@dataclass(frozen=True)
class DeviceInfo:
    """A device of another machine, by what decides how it is treated (runner/device/quirks.py)."""

    name: str  # as ggml would call it there
    type: str  # CPU, GPU, IGPU or ACCEL
    description: str  # its driver's name for it
    features: tuple[str, ...]  # as ggml-vulkan lists them
    small_bar: bool  # no resizable BAR
    system: str  # as sys.platform


@dataclass(frozen=True)
class DryRunStep:
    """After a step: bytes held on each device, the most held during it, what each model holds, what was measured.

    outside: whether the last model in another process is still there.
    """

    held: dict[str, int]
    peak: dict[str, int]
    models: tuple[ModelMemory, ...]
    external: bool
    measured: Estimate | None


@dataclass(frozen=True)
class DryRun:
    """What the steps lead to, as far as they can be done; error: why the one after the last of them cannot."""

    steps: tuple[DryRunStep, ...]
    error: Exception | None


@dataclass(frozen=True)
class Device:
    """One ggml device."""

    name: str  # as ggml calls it: CPU, Vulkan0, ...
    description: str
    type: str  # CPU, GPU, IGPU or ACCEL
    free: int
    total: int
    largest_buffer: int
    features: tuple[str, ...]  # "software" marks a Vulkan driver that computes on the processor
    traits: tuple[str, ...] = ()  # how the runner treats it because of what it is, in words
    small_bar: bool = False  # the processor sees only a part of its memory: no resizable BAR
    driver: str = ""  # of a GPU: name and version, where it tells them


@dataclass(frozen=True)
class LoadReport:
    """Weights: used in place from the file, copied into memory of the device, repacked there, and streamed to it."""

    mapped: int
    copied: int
    repacked: int
    streamed: int


@dataclass(frozen=True)
class Estimate:
    """What a program takes on a device, measured without building it, and what the device has for it."""

    compute: int  # of the compute buffer
    constants: int
    weights: int  # that it computes with, were they all placed on the device
    work: int  # scratch of the CPU backend
    largest_tensor: int
    largest_operation: float  # floating-point operations
    headroom: int  # free, or held by programs that give way to this one
    largest_buffer: int
    operation_limit: float  # floating-point operations that the driver lets one operation have

    @property
    def fits(self) -> bool:
        """Whether it can be built and run."""
        return (
            self.compute + self.constants + self.work <= self.headroom
            and self.largest_tensor <= self.largest_buffer
            and self.largest_operation <= self.operation_limit
        )


@dataclass(frozen=True)
class DeviceMemory:
    """What the runner holds on a device and held at most, and what is left."""

    name: str
    held: int
    peak: int
    free: int
    total: int


@dataclass(frozen=True)
class ModelMemory:
    """A loaded weight set. Sets with one `files_digest`, loaded alike, share what is mapped, copied and repacked."""

    name: str
    digest: str
    device: str
    budget: int
    files_digest: str
    mapped: int
    copied: int
    repacked: int  # private copies in the layout of the CPU's fastest kernels, instead of mapped ones
    streamed: int  # that stay in the file's pages and pass through the device
    staging: int  # device memory of the built program that they pass through, and of those of them kept there
    buffers: int  # that mapped and copied ones lie in
    arrays: int  # weights that came from memory
    constants: int  # of the built program
    compute: int  # the built program's compute buffer
    work: int  # scratch of the CPU backend, one for all its models


@dataclass(frozen=True)
class MemoryReport:
    """The runner's process and all it holds."""

    private: int
    resident: int
    devices: tuple[DeviceMemory, ...]
    models: tuple[ModelMemory, ...]
    loads: int  # times that weights were brought from their files since it started


def memory_report(reply: dict[str, Any]) -> MemoryReport:
    """A MemoryReport from the runner's answer."""
    return MemoryReport(
        reply["private"],
        reply["resident"],
        tuple(DeviceMemory(**device) for device in reply["devices"]),
        tuple(ModelMemory(**model) for model in reply["models"]),
        reply["loads"],
    )


def device(reply: dict[str, Any]) -> Device:
    """A Device from the runner's answer."""
    return Device(**{**reply, "features": tuple(reply["features"]), "traits": tuple(reply["traits"])})
