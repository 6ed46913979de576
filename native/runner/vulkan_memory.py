"""How much of a GPU's memory the processor sees: asked of Vulkan itself, as ggml does not tell."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from ctypes import byref
from typing import Any

_DEVICE_LOCAL, _HOST_VISIBLE = 1, 2  # VkMemoryPropertyFlagBits; VK_MEMORY_HEAP_DEVICE_LOCAL_BIT is 1 too
_DISCRETE = 2  # VkPhysicalDeviceType
_NAME = 5 * 4  # bytes of VkPhysicalDeviceProperties before deviceName; deviceType is the word before it
_NAME_LENGTH = 256
_PROPERTIES = 4096  # more than VkPhysicalDeviceProperties has


class _InstanceCreateInfo(ctypes.Structure):  # VkInstanceCreateInfo without layers, extensions, application
    _fields_ = [("type", ctypes.c_int), ("nothing", ctypes.c_void_p * 7)]


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


def is_small_window(types: Sequence[tuple[int, int]], heaps: Sequence[tuple[int, int]]) -> bool:
    """Whether the processor sees only a part of a card's memory: types as (flags, heap), heaps as (bytes, flags)."""
    card = [size for size, flags in heaps if flags & _DEVICE_LOCAL]
    both = _DEVICE_LOCAL | _HOST_VISIBLE
    seen = [heaps[heap][0] for flags, heap in types if flags & both == both]
    return bool(seen) and max(seen) < max(card)


def small_windows() -> frozenset[str]:
    """The names of this machine's discrete GPUs without resizable BAR; none where Vulkan does not answer."""
    try:
        vulkan = ctypes.CDLL("vulkan-1.dll" if sys.platform == "win32" else "libvulkan.so.1")
        return frozenset(_small_windows(vulkan))
    except OSError:
        return frozenset()


def _small_windows(vulkan: Any) -> list[str]:
    instance = ctypes.c_void_p()
    if vulkan.vkCreateInstance(byref(_InstanceCreateInfo(type=1)), None, byref(instance)) != 0:
        return []
    try:
        count = ctypes.c_uint32()
        vulkan.vkEnumeratePhysicalDevices(instance, byref(count), None)
        devices = (ctypes.c_void_p * count.value)()
        vulkan.vkEnumeratePhysicalDevices(instance, byref(count), devices)
        names = []
        for device in devices[: count.value]:
            handle, properties, memory = ctypes.c_void_p(device), ctypes.create_string_buffer(_PROPERTIES), _Memory()
            vulkan.vkGetPhysicalDeviceProperties(handle, properties)
            vulkan.vkGetPhysicalDeviceMemoryProperties(handle, byref(memory))
            types = [(each.flags, each.heap) for each in memory.types[: memory.types_count]]
            heaps = [(each.size, each.flags) for each in memory.heaps[: memory.heaps_count]]
            kind = int.from_bytes(properties.raw[_NAME - 4 : _NAME], sys.byteorder)
            if kind == _DISCRETE and is_small_window(types, heaps):
                names.append(properties.raw[_NAME : _NAME + _NAME_LENGTH].split(b"\0")[0].decode(errors="replace"))
        return names
    finally:
        vulkan.vkDestroyInstance(instance, None)
