"""The devices ggml has, by name; drivers other than the CPU's are loaded only when one of them is asked for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np

from ...errors import RequestError
from ..ggml_binding import ggml, pointer, vulkan_features
from .accumulation import probe, sums_in_half
from .quirks import HALF_SUMS, Facts, describe_traits, is_software, starting, traits_of
from .vulkan_info import VulkanFacts, vulkan_facts

_TYPES = {0: "CPU", 1: "GPU", 2: "IGPU", 3: "ACCEL", 4: "META"}  # enum ggml_backend_dev_type


class Device:
    """One ggml device; its backend is started with the first use."""

    def __init__(
        self,
        handle: int,
        threads: int,
        limit: int | None,
        interrupted: Callable[[], bool],
        vulkan: Mapping[str, VulkanFacts] = MappingProxyType({}),
        half_sums: bool = False,
    ) -> None:
        """vulkan: what Vulkan says of its devices, by their description.

        half_sums: take it that a CPU sums in half precision; otherwise that is found out.
        """
        self.handle = handle
        self.name = ggml.ggml_backend_dev_name(handle).decode()
        self.description = ggml.ggml_backend_dev_description(handle).decode()
        self.type = _TYPES.get(ggml.ggml_backend_dev_type(handle), "ACCEL")
        self.features = vulkan_features.get(self.name) or self._cpu_features()
        if self.type == "CPU" and (half_sums or sums_in_half(probe(handle))):
            self.features = (*self.features, HALF_SUMS)
        facts = vulkan.get(self.description)
        self.driver = facts.driver if facts else ""
        self.small_bar = bool(facts and facts.small_bar)
        self.traits = traits_of(Facts(self.type, self.description, self.features, self.small_bar))
        with starting(self.traits):
            self.buffer_type = ggml.ggml_backend_dev_buffer_type(handle)
        self.repack_buffer_type = _extra_buffer_type(handle, b"CPU_REPACK")  # None where ggml was built without
        self.held = 0  # bytes this process has allocated on it
        self.peak = 0  # the most it ever had
        self.request_peak = 0  # the most since the request began that is being worked on
        self.threads = threads
        self._limit = limit
        # ggml keeps the pointer, so this must live as long as the backend
        self._abort_callback = ggml.ggml_abort_callback(lambda _: interrupted())
        self._backend: Any = None

    @property
    def backend(self) -> Any:
        """The stream that computes on it; raises RequestError when the driver refuses."""
        if self._backend is None:
            self._backend = ggml.ggml_backend_dev_init(self.handle, None)
            if not self._backend:
                raise RequestError(f"the device {self.name} ({self.description}) could not be started by its driver")
            if self.type == "CPU":
                ggml.ggml_backend_cpu_set_n_threads(self._backend, self.threads)
                ggml.ggml_backend_cpu_set_abort_callback(self._backend, self._abort_callback, None)
        return self._backend

    @property
    def largest_buffer(self) -> int:
        """Bytes one buffer can have."""
        return min(ggml.ggml_backend_buft_get_max_size(self.buffer_type), self.memory()[1])

    def hold(self, nbytes: int) -> None:
        """Note bytes allocated on it."""
        self.held += nbytes
        self.request_peak = max(self.request_peak, self.held)
        self.peak = max(self.peak, self.held)

    def begin_request(self) -> None:
        """From here on request_peak counts."""
        self.request_peak = self.held

    def freed(self, nbytes: int) -> None:
        """Note bytes freed on it, and end the backend, which keeps scratch memory and names freed buffers.

        ggml-vulkan writes the descriptors that a shader has and leaves the others of a set as they were. Mesa's
        software driver touches those too, so a buffer freed between two programs corrupts the heap. Starting a backend
        anew takes microseconds.
        """
        self.held -= nbytes
        if self._backend is not None:
            ggml.ggml_backend_free(self._backend)
            self._backend = None

    def new_buffer(self, buffer_type: int, size: int) -> Any:
        """A buffer of that type, one of the device's; None where the driver refuses."""
        return ggml.ggml_backend_buft_alloc_buffer(buffer_type, size)

    def put(self, tensor: Any, buffer: Any, offset: int) -> None:
        """Give a tensor its place in a buffer."""
        ggml.ggml_backend_tensor_alloc(buffer, tensor, ggml.ggml_backend_buffer_get_base(buffer) + offset)

    def write(self, tensor: Any, data: np.ndarray, offset: int = 0) -> None:
        """Copy bytes into a tensor, from its byte `offset` on."""
        ggml.ggml_backend_tensor_set(tensor, pointer(data), offset, data.nbytes)

    def place_graph(self, allocator: int, graph: Any) -> bool:
        """Allocate a graph's compute buffer and give its tensors their places; false where the driver refuses."""
        return bool(ggml.ggml_gallocr_reserve(allocator, graph) and ggml.ggml_gallocr_alloc_graph(allocator, graph))

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        ggml.ggml_backend_dev_memory(self.handle, ctypes.byref(free), ctypes.byref(total))
        if self.type == "CPU":
            return _available_memory(free.value), total.value
        whole = min(total.value, self._limit or total.value)
        # A driver without a memory budget reports everything free whatever we hold.
        return max(0, min(free.value, whole - self.held)), whole

    def describe(self) -> dict[str, Any]:
        """The device as the client's Device has it."""
        free, total = self.memory()
        return {
            "name": self.name,
            "description": self.description,
            "type": self.type,
            "free": free,
            "total": total,
            "largest_buffer": self.largest_buffer,
            "features": (*["software"] * is_software(self.description), *self.features),
            "traits": describe_traits(self.traits),
            "small_bar": self.small_bar,
            "driver": self.driver,
        }

    def _cpu_features(self) -> tuple[str, ...]:
        registry = ggml.ggml_backend_dev_backend_reg(self.handle)
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


class Devices:
    """All devices of this process. `aborted` is asked between the operations of a run on the CPU.

    `loading(True)` is called before drivers are loaded, `loading(False)` after. limit: bytes that may be used of each
    device but the CPU. half_sums: as Device.
    """

    def __init__(
        self, threads: int, limit: int | None, interrupted: Callable[[], bool], loading: Callable[[bool], None],
        half_sums: bool = False,
    ) -> None:  # fmt: skip
        self._new = lambda handle, vulkan: Device(handle, threads, limit, interrupted, vulkan)
        self._loading = loading
        cpu = ggml.ggml_backend_reg_dev_get(ggml.ggml_backend_cpu_reg(), 0)
        self._cpu = Device(cpu, threads, limit, interrupted, half_sums=half_sums)
        self._all: list[Device] | None = None
        self._lock = Lock()

    def all(self) -> list[Device]:
        """Every device, the CPU last; loads the drivers."""
        with self._lock:
            if self._all is None:
                self._loading(True)
                handles = [ggml.ggml_backend_dev_get(index) for index in range(ggml.ggml_backend_dev_count())]
                vulkan = vulkan_facts() if vulkan_features else {}
                found = [self._new(handle, vulkan) for handle in handles if handle != self._cpu.handle]
                self._loading(False)
                self._all = [*found, self._cpu]
            return self._all

    def known(self) -> list[Device]:
        """The devices met so far, without loading a driver."""
        return self._all or [self._cpu]

    def find(self, name: str) -> Device:
        """The device called `name`; raises RequestError naming those there are."""
        for device in self.known():
            if device.name == name:
                return device
        for device in self.all():
            if device.name == name:
                return device
        there = "; ".join(f"{device.name} ({device.description})" for device in self.all())
        raise RequestError(f"there is no device {name!r} on this machine. There are: {there}. Choose one of them.")


def _available_memory(fallback: int) -> int:
    """Bytes the system can give without swapping; ggml calls all memory free on Linux."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return fallback


@dataclass(frozen=True)
class Limits:
    """threads: of the CPU device. The others in bytes, or else as said, below what the devices say of themselves."""

    threads: int
    largest_buffer: int | None = None  # any device
    device_memory: int | None = None  # each device but the CPU
    largest_segment: float | None = None  # operations that a device is given at once
    half_sums: bool = False  # take it that the CPU sums F16 products in half precision
