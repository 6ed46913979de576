"""Devices by name and their memory; drivers other than the CPU's are loaded only when one of them is asked for."""

from __future__ import annotations

import ctypes
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np

from ...errors import NoDevice, RunnerError
from ...ggml_build import has_vulkan
from ...placement import CPU
from ...wire import messages
from ..ggml_binding import ggml, pointer, vulkan_features
from .accumulation import probe, sums_in_half
from .quirks import HALF_SUMS, describe_traits, is_software, starting, traits_of
from .vulkan_info import DISABLED, VulkanFacts, VulkanUnavailable, vulkan_facts, without_unusable

_UNLIMITED = 1 << 62  # bytes
_TYPES = {0: "CPU", 1: "GPU", 2: "IGPU", 3: "ACCEL", 4: "META"}  # enum ggml_backend_dev_type


@dataclass(frozen=True)
class Limits:
    """The user's limits, below what devices say of themselves; in bytes where nothing else is said."""

    threads: int  # of the CPU device
    largest_buffer: int | None = None  # any device
    device_memory: int | None = None  # each device but the CPU
    largest_segment: float | None = None  # operations that a device is given at once
    half_sums: bool = False  # take it that the CPU sums F16 products in half precision
    off: tuple[tuple[str, str, str], ...] = ()  # a device's description, its driver, a variable of ggml's


class Device(ABC):
    """Memory that tensors are placed in, with an account of it. All sizes in bytes."""

    def __init__(
        self, info: messages.DeviceInfo, handle: int, buffer_types: tuple[int, int | None], limits: Limits,
        driver: str = "",
    ) -> None:  # fmt: skip
        """handle: of the ggml device that answers what operations and buffers it supports.

        buffer_types: of ggml; its usual one, and that of weights in the layout of the CPU's fastest kernels, if any.
        """
        self.info = info
        self.name = info.name
        self.description = info.description
        self.type = info.type
        self.features = info.features
        self.small_bar = info.small_bar
        self.driver = driver
        self.handle = handle
        self.buffer_type, self.repack_buffer_type = buffer_types
        self.limits = limits
        self.traits = traits_of(info)
        self.held = 0  # allocated by this process
        self.peak = 0  # the most it ever had
        self.request_peak = 0  # the most since the request began that is being worked on

    @abstractmethod
    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""

    @abstractmethod
    def new_buffer(self, buffer_type: int, size: int) -> Any:
        """A ggml buffer of one of the device's types; None where the driver refuses."""

    @abstractmethod
    def map_buffer(self, data: np.ndarray) -> Any:
        """A ggml buffer around bytes of this process's memory, which stay where they are."""

    @abstractmethod
    def put(self, tensor: Any, buffer: Any, offset: int) -> None:
        """Give a tensor its place in a buffer."""

    @abstractmethod
    def write(self, tensor: Any, data: np.ndarray, offset: int = 0) -> None:
        """Copy bytes into a tensor, from its byte `offset` on."""

    @abstractmethod
    def place_graph(self, allocator: int, graph: Any) -> bool:
        """Allocate a graph's compute buffer and give its tensors their places; false where the driver refuses."""

    @abstractmethod
    def compute(self, graph: Any) -> int:
        """Compute the nodes of a ggml graph and wait for them; returns the ggml_status."""

    def supports(self, operation: Any) -> bool:
        """Whether it can compute a ggml tensor from those that it is made of."""
        return bool(ggml.ggml_backend_dev_supports_op(self.handle, operation))

    def max_buffer(self, buffer_type: int) -> int:
        """The most that one buffer of a type may have, whatever is free."""
        return min(ggml.ggml_backend_buft_get_max_size(buffer_type), self.limits.largest_buffer or _UNLIMITED)

    @property
    def largest_buffer(self) -> int:
        """The most that one buffer can have."""
        return min(self.max_buffer(self.buffer_type), self.memory()[1])

    @property
    def largest_segment(self) -> float:
        """Floating-point operations to give it at once."""
        return min(self.traits.largest_segment, self.limits.largest_segment or inf)

    def hold(self, nbytes: int) -> None:
        """Note bytes allocated on it."""
        self.held += nbytes
        self.request_peak = max(self.request_peak, self.held)
        self.peak = max(self.peak, self.held)

    def freed(self, nbytes: int) -> None:
        """Note bytes freed on it."""
        self.held -= nbytes

    def begin_request(self) -> None:
        """From here on request_peak counts."""
        self.request_peak = self.held

    def describe(self) -> messages.Device:
        """The device as the client has it."""
        free, total = self.memory()
        return messages.Device(
            name=self.name,
            description=self.description,
            type=self.type,
            free=free,
            total=total,
            largest_buffer=self.largest_buffer,
            features=(*["software"] * is_software(self.description), *self.features),
            traits=describe_traits(self.traits),
            small_bar=self.small_bar,
            driver=self.driver,
        )


class GgmlDevice(Device):
    """A device of this machine, whose memory and arithmetic are ggml's; its backend is started with the first use."""

    def __init__(
        self,
        handle: int,
        limits: Limits,
        interrupted: Callable[[], bool],
        vulkan: Mapping[str, VulkanFacts] = MappingProxyType({}),
    ) -> None:
        """vulkan: of the Vulkan devices, by their description. interrupted: asked between operations on the CPU."""
        name = ggml.ggml_backend_dev_name(handle).decode()
        description = ggml.ggml_backend_dev_description(handle).decode()
        kind = _TYPES.get(ggml.ggml_backend_dev_type(handle), "ACCEL")
        features = vulkan_features.get(name) or _cpu_features(handle)
        if kind == CPU and (limits.half_sums or sums_in_half(probe(handle))):
            features = (*features, HALF_SUMS)
        facts = vulkan.get(description)
        driver = facts.driver if facts else ""
        off = tuple(variable for *device, variable in limits.off if device == [description, driver])
        info = messages.DeviceInfo(name, kind, description, features, bool(facts and facts.small_bar), off=off)
        with starting(traits_of(info)):
            buffer_types = ggml.ggml_backend_dev_buffer_type(handle), _extra_buffer_type(handle, b"CPU_REPACK")
        super().__init__(info, handle, buffer_types, limits, driver)
        # ggml keeps the pointer, so this must live as long as the backend
        self._abort_callback = ggml.ggml_abort_callback(lambda _: interrupted())
        self._backend: Any = None

    @property
    def backend(self) -> Any:
        """The stream that computes on it; raises RunnerError when the driver refuses."""
        if self._backend is None:
            self._backend = ggml.ggml_backend_dev_init(self.handle, None)
            if not self._backend:
                raise RunnerError(f"the device {self.name} ({self.description}) could not be started by its driver")
            if self.type == CPU:
                ggml.ggml_backend_cpu_set_n_threads(self._backend, self.limits.threads)
                ggml.ggml_backend_cpu_set_abort_callback(self._backend, self._abort_callback, None)
        return self._backend

    def freed(self, nbytes: int) -> None:
        """Note bytes freed on it, and end the backend, which keeps scratch memory and names freed buffers.

        ggml-vulkan writes the descriptors that a shader has and leaves the others of a set as they were. Mesa's
        software driver touches those too, so a buffer freed between two programs corrupts the heap. Starting a backend
        anew takes microseconds.
        """
        super().freed(nbytes)
        if self._backend is not None:
            ggml.ggml_backend_free(self._backend)
            self._backend = None

    def memory(self) -> tuple[int, int]:
        """Free and total bytes, as the system and the driver say."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(self.handle, ctypes.byref(free), ctypes.byref(total))
        if self.type == CPU:
            return _available_memory(free.value), total.value
        whole = min(total.value, self.limits.device_memory or total.value)
        # A driver without a memory budget reports everything free whatever we hold.
        return max(0, min(free.value, whole - self.held)), whole

    def new_buffer(self, buffer_type: int, size: int) -> Any:
        """As Device.new_buffer."""
        return ggml.ggml_backend_buft_alloc_buffer(buffer_type, size)

    def map_buffer(self, data: np.ndarray) -> Any:
        """As Device.map_buffer."""
        return ggml.ggml_backend_dev_buffer_from_host_ptr(self.handle, pointer(data), data.nbytes, data.nbytes)

    def put(self, tensor: Any, buffer: Any, offset: int) -> None:
        """As Device.put."""
        ggml.ggml_backend_tensor_alloc(buffer, tensor, ggml.ggml_backend_buffer_get_base(buffer) + offset)

    def write(self, tensor: Any, data: np.ndarray, offset: int = 0) -> None:
        """As Device.write."""
        ggml.ggml_backend_tensor_set(tensor, pointer(data), offset, data.nbytes)

    def place_graph(self, allocator: int, graph: Any) -> bool:
        """As Device.place_graph."""
        return bool(ggml.ggml_gallocr_reserve(allocator, graph) and ggml.ggml_gallocr_alloc_graph(allocator, graph))

    def compute(self, graph: Any) -> int:
        """As Device.compute."""
        return int(ggml.ggml_backend_graph_compute(self.backend, ctypes.byref(graph)))


class Devices:
    """Devices by name; all but the first are found when one of them is asked for, as that may load drivers."""

    def __init__(self, first: Sequence[Device], find_all: Callable[[], Sequence[Device]]) -> None:
        """find_all: every device, `first` among them; raises VulkanUnavailable where it may find more another time."""
        self._known = list(first)
        self._find_all: Callable[[], Sequence[Device]] | None = find_all
        self._lock = Lock()
        self.unusable: tuple[str, ...] = ()  # others of this machine, in words

    def all(self) -> list[Device]:
        """Every device; loads the drivers."""
        with self._lock:
            if self._find_all is not None:
                try:
                    self._known = list(self._find_all())
                    self._find_all = None
                except VulkanUnavailable as why:
                    self.unusable = (f"Vulkan does not start: {why}.",)
            return self._known

    def known(self) -> list[Device]:
        """The devices met so far, without loading a driver."""
        return self._known

    def find(self, name: str) -> Device:
        """The device called `name`; raises NoDevice naming those there are."""
        for devices in (self.known, self.all):
            for device in devices():
                if device.name == name:
                    return device
        there = "; ".join(f"{device.name} ({device.description})" for device in self.all())
        said = f"there is no device {name!r} on this machine. There are: {there}. Choose one of them."
        raise NoDevice(name, " ".join([said, *self.unusable]))


def ggml_devices(limits: Limits, interrupted: Callable[[], bool], loading: Callable[[bool], None]) -> Devices:
    """The devices of this machine, the CPU last.

    interrupted: asked between the operations of a run on the CPU. loading: called with True before drivers are loaded,
    with False after.
    """
    cpu = GgmlDevice(ggml.ggml_backend_reg_dev_get(ggml.ggml_backend_cpu_reg(), 0), limits, interrupted)

    def find_all() -> list[Device]:
        loading(True)
        try:
            facts = vulkan_facts() if has_vulkan() and DISABLED not in os.environ else []
            variables, devices.unusable = without_unusable(facts, os.environ)
            os.environ.update(variables)
            handles = [ggml.ggml_backend_dev_get(index) for index in range(ggml.ggml_backend_dev_count())]
            vulkan = dict(facts)
            found = [GgmlDevice(handle, limits, interrupted, vulkan) for handle in handles if handle != cpu.handle]
        finally:
            loading(False)
        return [*found, cpu]

    devices = Devices([cpu], find_all)  # which asks it when it is complete
    return devices


def _available_memory(fallback: int) -> int:
    """Bytes the system can give without swapping; ggml calls all memory free on Linux."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return fallback


def _cpu_features(handle: int) -> tuple[str, ...]:
    registry = ggml.ggml_backend_dev_backend_reg(handle)
    address = ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_get_features")
    if not address:
        return ()
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(_Feature), ctypes.c_void_p)(address)(registry)
    features, index = [], 0
    while listed[index].name:
        if listed[index].value == b"1":
            features.append(listed[index].name.decode())
        index += 1
    return tuple(features)


def _extra_buffer_type(handle: int, name: bytes) -> int | None:
    """The buffer type of that name among those a device has besides its usual one.

    Never another of them: matrices in the one called AMX crash some processors that list it first.
    """
    registry = ggml.ggml_backend_dev_backend_reg(handle)
    address = ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return None
    listed = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(handle)
    index = 0
    while (found := listed[index]) is not None:
        if ggml.ggml_backend_buft_name(found) == name:
            return found
        index += 1
    return None


class _Feature(ctypes.Structure):  # struct ggml_backend_feature
    _fields_ = [("name", ctypes.c_char_p), ("value", ctypes.c_char_p)]
