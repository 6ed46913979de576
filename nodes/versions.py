"""The oldest versions of ComfyUI and torch that this pack works with, and the refusal of older ones."""

from __future__ import annotations

import re

import comfyui_version
import torch

# `requires-comfyui` in pyproject.toml says the same; `dev.py matrix` tests both.
OLDEST_COMFYUI, OLDEST_TORCH = "0.18.0", "2.7.0"


def require_versions() -> None:
    """Raises ImportError for older versions; ComfyUI logs it and continues without this pack."""
    installed = (("ComfyUI", comfyui_version.__version__, OLDEST_COMFYUI), ("torch", torch.__version__, OLDEST_TORCH))
    for name, version, oldest in installed:
        if _numbers(version) < _numbers(oldest):
            raise ImportError(
                f"GGML Vulkan works with {name} {oldest} and newer, and this is {version}: update {name}, "
                "or remove this pack from custom_nodes. ComfyUI goes on without it."
            )


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version: (2, 7, 0) of "2.7.0+cu126"."""
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])
