"""Packages of the operating system: the Vulkan loader and drivers, and a compiler when ggml must be built."""

from __future__ import annotations

import ctypes.util
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from .steps import Failure, run

Packages = Mapping[str, Callable[[], bool]]  # Debian's name of a package -> whether what it brings is there


def installed_program(*names: str) -> Callable[[], bool]:
    return lambda: all(shutil.which(name) for name in names)


def installed_library(name: str) -> Callable[[], bool]:
    return lambda: ctypes.util.find_library(name) is not None


def installed_file(*patterns: str) -> Callable[[], bool]:
    return lambda: any(next(Path("/").glob(pattern), None) for pattern in patterns)


def browser() -> str | None:
    """Chromium, or what is as good."""
    return shutil.which("chromium") or shutil.which("google-chrome")


RUNTIME: Packages = {
    "python3-venv": lambda: importlib.util.find_spec("ensurepip") is not None,
    "libgomp1": installed_library("gomp"),
    "libvulkan1": installed_library("vulkan"),
    "mesa-vulkan-drivers": installed_file("usr/share/vulkan/icd.d/lvp_icd*", "etc/vulkan/icd.d/lvp_icd*"),
}
BROWSER: Packages = {  # for the tests of the editor
    "chromium": lambda: browser() is not None,
    "chromium-driver": installed_program("chromedriver"),
}
BUILD: Packages = {
    "build-essential": installed_program("cc", "c++", "make"),
    "cmake": installed_program("cmake"),
    "ninja-build": installed_program("ninja"),
    "glslc": installed_program("glslc"),
    "libvulkan-dev": installed_file("usr/lib/*/libvulkan.so", "usr/lib64/libvulkan.so", "usr/lib/libvulkan.so"),
}


def missing(packages: Packages) -> list[str]:
    """The packages whose content is not on this machine; none on systems other than Linux."""
    if sys.platform != "linux":
        return []
    return [name for name, installed in packages.items() if not installed()]


def ensure(packages: Packages, log: Path) -> None:
    """Installs what is missing where it may; raises Failure with the one command to run where it may not."""
    names = missing(packages)
    if not names or sys.platform != "linux":
        return
    apt = shutil.which("apt-get")
    if apt is None:
        raise Failure(
            f"this machine lacks what Debian calls {' '.join(names)}",
            f"install what your system calls these packages: {' '.join(names)}",
        )
    if os.geteuid() != 0:
        raise Failure(
            f"these system packages are missing, and only root can install them: {' '.join(names)}",
            f"run: sudo apt-get update && sudo apt-get install -y --no-install-recommends {' '.join(names)}",
        )
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    # One dead source among many makes this fail; the lists that did come are often enough.
    with suppress(Failure):
        run([apt, "update", "-qq"], log, environment)
    run([apt, "install", "-y", "-qq", "--no-install-recommends", *names], log, environment)
    if still := missing(packages):
        raise Failure(f"apt-get installed {' '.join(names)}, yet {' '.join(still)} cannot be found", log=log)
