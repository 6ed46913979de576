"""The messages between ComfyUI's process (the client) and the runner; all sizes in bytes.

Every request is answered once with a Reply, and before that with any number of Progress. native/wire/frames.py has how
they travel; tensors do not travel in them but through shared memory.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..placement import Placement
from ..program import Program
from ..weights.weight_set import Parameter, WeightSet
from .failures import Failure, exception
from .turn import NO_TURN, Turn

# What requests are about


@dataclass(frozen=True)
class ArrayDescription:
    """A weight that the client holds in memory."""

    name: str
    digest: str  # of its content
    type: str  # ggml's
    shape: tuple[int, ...]  # torch order


@dataclass(frozen=True)
class WeightsDescription:
    """A weight set without its content: where every weight lies."""

    name: str  # for messages
    files: tuple[tuple[str, int, int], ...]  # path, size in bytes, mtime in ns
    files_digest: str  # equal for sets of the same parameters of the same files
    parameters: tuple[Parameter, ...]
    arrays: tuple[ArrayDescription, ...]


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
    """The properties of a device, here or elsewhere, that decide how it is treated (runner/device/quirks.py)."""

    name: str  # as ggml calls it, or would
    type: str  # CPU, GPU, IGPU or ACCEL
    description: str  # the driver's name for it
    features: tuple[str, ...] = ()  # as ggml-vulkan lists them: "fp16", "matrix cores KHR_coopmat", ...
    small_bar: bool = False  # the processor sees only a part of its memory: no resizable BAR
    system: str = sys.platform
    off: tuple[str, ...] = ()  # variables of ggml's that switch off features that a probe found wrong

    def has(self, feature: str) -> bool:
        """Whether it has a feature, of whatever kind."""
        return any(listed.split(" ")[: len(feature.split(" "))] == feature.split(" ") for listed in self.features)


@dataclass(frozen=True)
class Step:
    """A call of Runner.load, run (of `program`), release, unload or estimate, for a dry run; it travels as that."""

    do: Literal["load", "run", "release", "unload", "estimate"]
    weights: WeightSet
    placement: Placement
    program: Program | None = None


# Requests


@dataclass(frozen=True)
class DevicesRequest:
    """Lists every device of this machine, which loads the drivers; answered with Devices."""


@dataclass(frozen=True)
class MemoryRequest:
    """Asks what the runner holds; answered with a MemoryReport."""


@dataclass(frozen=True)
class LoadRequest:
    """Loads a weight set; answered with a LoadReport.

    weights: may be None for one that is loaded; otherwise the answer is Missing.
    """

    digest: str
    placement: Placement
    weights: WeightsDescription | None = None


@dataclass(frozen=True)
class ArrayRequest:
    """Uploads an array that a LoadRequest described; its `nbytes` are the first of shared memory of `arena` bytes."""

    device: str
    digest: str
    nbytes: int
    arena: int


@dataclass(frozen=True)
class ReleaseRequest:
    """Frees the compute buffer and the constants of a weight set, whose weights stay; answered with Done."""

    digest: str
    placement: Placement


@dataclass(frozen=True)
class UnloadRequest:
    """Frees a weight set; answered with Done whether it was loaded or not."""

    digest: str
    placement: Placement


@dataclass(frozen=True)
class ProgramRequest:
    """Brings a program, which is the frame's payload; answered with Done."""

    digest: str


@dataclass(frozen=True)
class RunRequest:
    """Runs a program on a loaded weight set; answered with a RunReply.

    inputs: offset and bytes in shared memory, which holds `arena` bytes; the outputs take their place afterwards. Those
    that the program writes into may be left out after the turn before; the answer is Missing where that is not held.
    """

    digest: str
    placement: Placement
    program: str
    inputs: Mapping[str, tuple[int, int]]
    arena: int
    turn: Turn = NO_TURN


@dataclass(frozen=True)
class ProfileRequest:
    """Runs a program as RunRequest does, each operation alone; answered with a ProfileReply."""

    run: RunRequest


@dataclass(frozen=True)
class EstimateRequest:
    """Asks what a program of the model `name` takes on a device; answered with an Estimate."""

    name: str
    placement: Placement
    program: str


DryRunStepRequest = LoadRequest | RunRequest | ReleaseRequest | UnloadRequest | EstimateRequest | ExternalModel


@dataclass(frozen=True)
class DryRunRequest:
    """Asks what requests, one after the other, take of empty devices; answered with a DryRun.

    capacity: bytes by device. foreign: those of the devices that belong to another machine. weights: by digest, those
    that the steps name.
    """

    capacity: Mapping[str, int]
    foreign: tuple[DeviceInfo, ...]
    steps: tuple[DryRunStepRequest, ...]
    weights: Mapping[str, WeightsDescription]


@dataclass(frozen=True)
class InterruptRequest:
    """Asks for an early end of another request, by its number; has no answer of its own."""

    request: int


# Replies


@dataclass(frozen=True)
class Done:
    """The answer to a request that has no other."""


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
class Devices:
    """Every device of this machine, the CPU last. unusable: others that ggml cannot compute with, in words."""

    devices: tuple[Device, ...]
    unusable: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadReport:
    """Weights: used in place from the file, copied into memory of the device, repacked there, and streamed to it."""

    mapped: int
    copied: int
    repacked: int
    streamed: int


@dataclass(frozen=True)
class OutputCheck:
    """One output of a run: whether all its values are finite, and whether many values are all the same one."""

    finite: bool
    constant: bool


@dataclass(frozen=True)
class RunReply:
    """The outputs are in shared memory, one after the other."""

    outputs: tuple[OutputCheck, ...]


@dataclass(frozen=True)
class ProfileReply:
    """Seconds by row of the program's table, for each row that computes."""

    seconds: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Estimate:
    """The needs of a program on a device, found out without allocating them, and what the device has for them."""

    compute: int  # of the compute buffer
    constants: int
    weight_bytes: int  # that it computes with, were they all placed on the device
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
    """Memory of a device: held by the runner now and at most so far, and what is left."""

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

    @property
    def weight_bytes(self) -> int:
        """Device memory allocated for the weights of its files."""
        return self.copied + self.repacked


@dataclass(frozen=True)
class MemoryReport:
    """The runner's process and all it holds."""

    private: int
    resident: int
    devices: tuple[DeviceMemory, ...]
    models: tuple[ModelMemory, ...]
    loads: int  # times that weights were brought from their files since it started


@dataclass(frozen=True)
class DryRunStep:
    """Memory after a step: held on each device, the most held during it, by model, and the estimate it asked for.

    external: whether the last model in another process is still there.
    """

    held: Mapping[str, int]
    peak: Mapping[str, int]
    models: tuple[ModelMemory, ...]
    external: bool
    measured: Estimate | None


@dataclass(frozen=True)
class DryRun:
    """The outcome of a dry run: each step that can be done, and why the one after the last of them cannot."""

    steps: tuple[DryRunStep, ...]
    failure: Failure | None = None

    @property
    def error(self) -> Exception | None:
        """The failure as an exception."""
        return None if self.failure is None else exception(self.failure)


# What travels

Result = Done | Devices | MemoryReport | LoadReport | RunReply | ProfileReply | Estimate | DryRun
Query = DevicesRequest | MemoryRequest  # answered at once, beside the work
Loading = LoadRequest | ArrayRequest | ReleaseRequest | UnloadRequest | ProgramRequest
Work = Loading | RunRequest | ProfileRequest | EstimateRequest | DryRunRequest  # done one after the other
Request = Query | Work | InterruptRequest


@dataclass(frozen=True)
class Reply:
    """The one answer to a request. peaks: by device, the most bytes held while it was worked on."""

    result: Result | Failure
    peaks: Mapping[str, int]


@dataclass(frozen=True)
class Progress:
    """How far a request is: the fraction that is done of 1, or bytes of all bytes."""

    done: float
    total: float


@dataclass(frozen=True)
class DriversEvent:
    """The runner begins or has ended to load the drivers; belongs to no request."""

    loading: bool


Message = Request | Reply | Progress | DriversEvent
