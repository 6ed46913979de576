"""Asks Vulkan for a GPU's driver and how much of its memory the processor sees, which ggml does not tell."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from ctypes import byref
from dataclasses import dataclass
from typing import Any

VISIBLE, DISABLED = "GGML_VK_VISIBLE_DEVICES", "GGML_DISABLE_VULKAN"  # of ggml
_DEVICE_LOCAL, _HOST_VISIBLE = 1, 2  # VkMemoryPropertyFlagBits; VK_MEMORY_HEAP_DEVICE_LOCAL_BIT is 1 too
_DISCRETE = 2  # VkPhysicalDeviceType
_VULKAN_1_2 = 1 << 22 | 2 << 12  # VK_API_VERSION_1_2, the oldest that ggml computes with
_RESULTS = {-1: "too little memory is free", -2: "too little of the GPU's memory is free", -9: "there is no driver"}


@dataclass(frozen=True)
class VulkanFacts:
    """A device as Vulkan describes it."""

    driver: str  # name and version as the driver says them, such as "radv Mesa 25.2.4"
    small_bar: bool  # a discrete GPU of whose memory the processor sees only a part: no resizable BAR
    storage_16bit: bool = True  # shaders read and write 16-bit values in buffers, without which ggml cannot compute


class _ApplicationInfo(ctypes.Structure):  # VkApplicationInfo
    _fields_ = [
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    ]


class _InstanceCreateInfo(ctypes.Structure):  # VkInstanceCreateInfo without layers and extensions
    _fields_ = [
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_ApplicationInfo)),
        ("nothing", ctypes.c_void_p * 4),
    ]


class _Driver(ctypes.Structure):  # VkPhysicalDeviceDriverProperties
    _fields_ = [
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("id", ctypes.c_int),
        ("name", ctypes.c_char * 256),
        ("info", ctypes.c_char * 256),
        ("conformance", ctypes.c_uint8 * 4),
    ]


class _Properties(ctypes.Structure):  # VkPhysicalDeviceProperties2
    _fields_ = [
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("api_version", ctypes.c_uint32),
        ("driver_version", ctypes.c_uint32),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("kind", ctypes.c_int),
        ("name", ctypes.c_char * 256),
        ("rest", ctypes.c_uint64 * 512),  # more than there is
    ]


class _Storage16(ctypes.Structure):  # VkPhysicalDevice16BitStorageFeatures
    _fields_ = [("type", ctypes.c_int), ("next", ctypes.c_void_p), ("in_buffers", ctypes.c_uint32 * 4)]


class _Features(ctypes.Structure):  # VkPhysicalDeviceFeatures2
    _fields_ = [("type", ctypes.c_int), ("next", ctypes.c_void_p), ("rest", ctypes.c_uint32 * 64)]  # more than there is


class _MemoryType(ctypes.Structure):  # VkMemoryType
    _fields_ = [("flags", ctypes.c_uint32), ("heap", ctypes.c_uint32)]


class _Heap(ctypes.Structure):  # VkMemoryHeap
    _fields_ = [("size", ctypes.c_uint64), ("flags", ctypes.c_uint32)]


class _Memory(ctypes.Structure):  # VkPhysicalDeviceMemoryProperties
    _fields_ = [
        ("types_count", ctypes.c_uint32),
        ("types", _MemoryType * 32),
        ("heaps_count", ctypes.c_uint32),
        ("heaps", _Heap * 16),
    ]


def is_small_bar(types: Sequence[tuple[int, int]], heaps: Sequence[tuple[int, int]]) -> bool:
    """Whether the processor sees only a part of a card's memory: types as (flags, heap), heaps as (bytes, flags)."""
    card = [size for size, flags in heaps if flags & _DEVICE_LOCAL]
    both = _DEVICE_LOCAL | _HOST_VISIBLE
    seen = [heaps[heap][0] for flags, heap in types if flags & both == both]
    return bool(seen) and max(seen) < max(card)


class VulkanUnavailable(Exception):
    """Vulkan does not start, in words; it may once memory is free."""


def vulkan_facts() -> list[tuple[str, VulkanFacts]]:
    """The names of this machine's devices and their facts, in Vulkan's order. Raises VulkanUnavailable."""
    try:
        vulkan = ctypes.CDLL("vulkan-1.dll" if sys.platform == "win32" else "libvulkan.so.1")
        return _facts(vulkan)
    except OSError as error:
        raise VulkanUnavailable(f"its library does not load: {error}") from error
    except AttributeError as error:  # a loader of Vulkan 1.0 lacks a function
        raise VulkanUnavailable(f"its library is too old: {error}") from error


def without_unusable(
    facts: Sequence[tuple[str, VulkanFacts]], environment: Mapping[str, str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables by which ggml leaves devices alone that it cannot compute with, and those devices in words.

    One of them that GGML_VK_VISIBLE_DEVICES names would end the process, and with it all the others; ggml leaves it
    alone where that is not set.
    """
    unusable = {str(number): name for number, (name, fact) in enumerate(facts) if not fact.storage_16bit}
    said = tuple(
        f"{name} cannot be used: it, or its driver, does not support 16-bit storage, which ggml needs. "
        "Update its driver, or choose another device."
        for name in unusable.values()
    )
    named = [part.strip() for part in environment.get(VISIBLE, "").split(",") if part.strip()]
    kept = [number for number in named if number not in unusable]
    if kept == named:
        return {}, said
    return {VISIBLE: ",".join(kept)} if kept else {DISABLED: "1"}, said


def _facts(vulkan: Any) -> list[tuple[str, VulkanFacts]]:
    application = _ApplicationInfo(type=0, api_version=_VULKAN_1_2)
    creation = _InstanceCreateInfo(type=1, application=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    if result := vulkan.vkCreateInstance(byref(creation), None, byref(instance)):
        raise VulkanUnavailable(_RESULTS.get(result, f"vkCreateInstance answers {result}"))
    try:
        count = ctypes.c_uint32()
        vulkan.vkEnumeratePhysicalDevices(instance, byref(count), None)
        devices = (ctypes.c_void_p * count.value)()
        vulkan.vkEnumeratePhysicalDevices(instance, byref(count), devices)
        return [_fact(vulkan, ctypes.c_void_p(device)) for device in devices[: count.value]]
    finally:
        vulkan.vkDestroyInstance(instance, None)


def _fact(vulkan: Any, device: ctypes.c_void_p) -> tuple[str, VulkanFacts]:
    """A device's name and the facts of it."""
    driver = _Driver(type=1000196000)
    properties = _Properties(type=1000059001, next=ctypes.addressof(driver))
    memory = _Memory()
    vulkan.vkGetPhysicalDeviceProperties2(device, byref(properties))
    vulkan.vkGetPhysicalDeviceMemoryProperties(device, byref(memory))
    types = [(each.flags, each.heap) for each in memory.types[: memory.types_count]]
    heaps = [(each.size, each.flags) for each in memory.heaps[: memory.heaps_count]]
    said = f"{_text(driver.name)} {_text(driver.info)}".strip()
    storage = _Storage16(type=1000083000)
    vulkan.vkGetPhysicalDeviceFeatures2(device, byref(_Features(type=1000059000, next=ctypes.addressof(storage))))
    small_bar = properties.kind == _DISCRETE and is_small_bar(types, heaps)
    return _text(properties.name), VulkanFacts(said, small_bar, bool(storage.in_buffers[0]))


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
