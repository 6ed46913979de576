"""ggml's Python binding: the one place that imports it, and its log."""

from __future__ import annotations

import ctypes
import importlib
import re
import sys
from typing import Any

import numpy as np

ggml: Any = importlib.import_module("ggml")
# What ggml-vulkan says about each device as it finds it, and nowhere else: "ggml_vulkan: 0 = NAME | fp16: 1 | ..."
_VULKAN_LINE = re.compile(r"ggml_vulkan: (\d+) = .*?\) \| (.*)")
vulkan_features: dict[str, tuple[str, ...]] = {}  # device name -> what it has
_DEBUG = 1  # enum ggml_log_level


@ggml.ggml_log_callback
def _log(level: int, text: bytes | None, _data: object) -> None:
    line = (text or b"").decode(errors="replace")
    found = _VULKAN_LINE.match(line)
    if found:
        vulkan_features[f"Vulkan{found[1]}"] = _features(found[2])
    if level != _DEBUG:  # a line for every repacked tensor would bury the last words of a runner that dies
        sys.stderr.write(line)


def _features(line: str) -> tuple[str, ...]:
    """ "fp16: 1 | bf16: 0 | warp size: 8" -> ("fp16", "warp size 8")."""
    features = []
    for part in line.strip().split(" | "):
        name, _, value = part.partition(": ")
        if value not in ("0", "none", ""):
            features.append(name if value == "1" else f"{name} {value}")
    return tuple(features)


ggml.ggml_log_set(_log, None)


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    """The address of an array's first byte; the caller keeps the array."""
    return ctypes.c_void_p(array.ctypes.data)


def context(tensors: int, graph_nodes: int = 0) -> Any:
    """A ggml context that holds only descriptions: room for so many tensors and a graph of so many nodes."""
    size = (tensors + 1) * ggml.ggml_tensor_overhead()
    if graph_nodes:
        size += ggml.ggml_graph_overhead_custom(graph_nodes, False)
    made = ggml.ggml_init(ggml.ggml_init_params(mem_size=size, mem_buffer=None, no_alloc=True))
    if not made:
        raise MemoryError(f"no memory for {size:,} bytes of tensor descriptions")
    return made
