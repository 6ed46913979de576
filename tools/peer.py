"""Builds stable-diffusion.cpp, which `bench` measures this project against, from PyPI in an environment of its own."""

from __future__ import annotations

import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from . import ggml_wheel, system_packages, vulkan_headers
from .places import Places, complete_folder
from .processes import Command
from .steps import Stamp, Step, recipe_key, run

VERSION = "0.4.7"
REQUIREMENT = f"stable-diffusion-cpp-python=={VERSION}"
# What a user gets who builds it: its own defaults, all instructions of the processor, OpenMP; half-precision sums, too.
FLAGS = ("-DGGML_NATIVE=ON", "-DGGML_OPENMP=ON")
VULKAN_FLAGS = ("-DSD_VULKAN=ON",)
COMPILER = {name: system_packages.BUILD[name] for name in ("build-essential", "cmake", "ninja-build")}
CHECK = "import stable_diffusion_cpp as peer; print(peer.__version__, peer.sd_get_system_info())"


@dataclass(frozen=True)
class Peer:
    """One build of stable-diffusion.cpp and the virtual environment it lives in."""

    places: Places
    vulkan: bool

    @property
    def venv(self) -> Path:
        return self.places.state / ("peer-vulkan" if self.vulkan else "peer")

    @property
    def python(self) -> Path:
        return self.venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    @property
    def flags(self) -> tuple[str, ...]:
        return FLAGS + VULKAN_FLAGS if self.vulkan else FLAGS

    def key(self) -> str:
        """Cache key of the wheel."""
        return recipe_key(
            {
                "requirement": REQUIREMENT,
                "flags": self.flags,
                "headers": vulkan_headers.SUITE if self.vulkan and vulkan_headers.wanted() else "system",
                "python": sys.version_info[:2],
                "machine": platform.machine(),
                "processor": ggml_wheel.processor_features(),
            }
        )


def step(peer: Peer) -> Step:
    """The step that makes a peer ready to be measured."""
    return Step(
        name="stable-diffusion.cpp with Vulkan" if peer.vulkan else "stable-diffusion.cpp",
        done=lambda: stamp(peer).matches(peer.key()),
        action=lambda log: install(peer, log),
        advice="check that this machine reaches the Python package index; for an error of the compiler, read the log "
        "from its first 'error:'",
    )


def stamp(peer: Peer) -> Stamp:
    return Stamp(peer.venv / "steps" / "wheel")


def install(peer: Peer, log: Path) -> None:
    """Makes the environment anew and puts the wheel into it, built here unless the cache has it."""
    if peer.venv.exists():
        shutil.rmtree(peer.venv)
    run([getattr(sys, "_base_executable", None) or sys.executable, "-m", "venv", peer.venv], log)
    folder = peer.places.cache / "stable-diffusion.cpp" / peer.key()
    if ggml_wheel.cached(folder) is None:
        build(peer, folder, log)
    run([peer.python, "-m", "pip", "install", "--quiet", next(folder.glob("*.whl"))], log)
    run([peer.python, "-c", CHECK], log)
    stamp(peer).write(peer.key())


def build(peer: Peer, folder: Path, log: Path) -> None:
    """Builds the wheel from the source on the package index."""
    system_packages.ensure(system_packages.BUILD if peer.vulkan else COMPILER, log)
    private = peer.vulkan and vulkan_headers.wanted()
    headers = vulkan_headers.fetch(peer.places.cache, log) if private else None
    arguments = ggml_wheel.cmake_arguments(peer.flags, headers)
    environment = {"CMAKE_BUILD_PARALLEL_LEVEL": str(ggml_wheel.processors()), "CMAKE_ARGS": arguments}
    # pip's own cache does not know CMAKE_ARGS: it would hand out a wheel built with other flags.
    command: Command = [peer.python, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir"]
    source = ["--no-binary", "stable-diffusion-cpp-python", REQUIREMENT]
    with complete_folder(folder) as partial:
        run([*command, *source, "--wheel-dir", partial], log, environment)
