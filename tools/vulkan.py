"""Vulkan on a machine without a GPU: when lavapipe, Mesa's software driver, is used, and what it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .places import Places

# The kernel's doors to a GPU: render nodes, and NVIDIA's own device files where its driver makes no render node.
GPU_FILES = ("dri/renderD*", "nvidia[0-9]*")


def has_gpu(devices: Path = Path("/dev"), files: Sequence[str] = GPU_FILES) -> bool:
    """Whether this machine has a GPU that a Vulkan driver could open."""
    if sys.platform != "linux":
        return True  # Windows brings no software Vulkan: what is installed there is a real driver
    return any(next(devices.glob(pattern), None) for pattern in files)


def software_environment(places: Places, gpu: Callable[[], bool] = has_gpu) -> dict[str, str]:
    """The environment in which ggml offers lavapipe as Vulkan0; empty where there is a GPU.

    Only for processes that were asked for it: with these set, ggml takes lavapipe for a GPU, and `auto` would prefer
    it to the CPU, which is faster.
    """
    if gpu():
        return {}
    shaders = places.cache / "shaders"
    shaders.mkdir(parents=True, exist_ok=True)
    return {
        # ggml hides devices that call themselves a CPU unless they are named.
        "GGML_VK_VISIBLE_DEVICES": "0",
        # Without it LLVM optimises each flash attention shader for minutes.
        "GALLIVM_PERF": "nopt",
        # Compiled shaders outlive the process: a matrix product is ready in 0.3 s instead of 5 s.
        "MESA_SHADER_CACHE_DIR": str(shaders),
    }
