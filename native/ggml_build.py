"""Which build of ggml this Python has: told from its files, as ComfyUI's own process loads none of its libraries."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

from .process.child import PACK

PACKAGE, VERSION = "ggml-python", "0.0.45"  # as install.py pins it


def has_ggml() -> bool:
    """Whether there is any ggml."""
    return importlib.util.find_spec("ggml") is not None


def has_vulkan() -> bool:
    """Whether ggml is a build with Vulkan."""
    spec = importlib.util.find_spec("ggml")
    return bool(spec and spec.origin and any(Path(spec.origin).parent.rglob("*ggml-vulkan*")))


def build_words() -> tuple[str, bool]:
    """The build in a sentence, with what to do where it is not the best, and whether it is that."""
    spec = importlib.util.find_spec("ggml")
    if spec is None or spec.origin is None:
        return missing_words(), False
    version = installed_version()
    if version != VERSION:
        return f"{PACKAGE} {version} is installed, this pack needs {VERSION}: {_install()}", False
    if has_vulkan():
        return f"{PACKAGE} {version} with Vulkan", True
    return f"{PACKAGE} {version} for the CPU alone, so that no GPU is used. For the one with Vulkan {_install()}", False


def installed_version() -> str:
    """The version of the package."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:  # built in a folder of its own
        return VERSION


def missing_words() -> str:
    """That there is no ggml, for the user."""
    return f"{PACKAGE} is not installed, which computes for this pack: {_install()}"


def _install() -> str:
    return f"run install.py in {PACK} with ComfyUI's Python, and start ComfyUI again."
