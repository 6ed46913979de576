"""Installs llama.cpp with Vulkan: the package of requirements.txt that runs language models, in the build for GPUs.

It goes into a folder of its own, as the virtual environment has the build without.
"""

from __future__ import annotations

from pathlib import Path

from . import system_packages, vulkan_headers
from .ggml_wheel import cached, cmake_arguments, left_out, prebuilt, processor_features, processors, undefined
from .places import Places, complete_folder
from .processes import Command
from .steps import Failure, recipe_key, run, say

NAME = "xllamacpp"
PREBUILT_INDEX = "https://xorbitsai.github.io/xllamacpp/whl/vulkan"
# Neither is needed here, and their sources are not in the package's: a grammar engine, and HTTPS.
FLAGS = ("-DLLAMA_LLGUIDANCE=OFF", "-DLLAMA_BUILD_BORINGSSL=OFF")
CHECK = 'import xllamacpp; assert any(info["name"].startswith("Vulkan") for info in xllamacpp.get_device_info())'


def requirement(places: Places) -> str:
    """The package and its version, as requirements.txt pins it."""
    lines = (places.root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"{NAME}=="))


def install(places: Places, log: Path, environment: dict[str, str]) -> Path:
    """The folder with the package, to be put before others in PYTHONPATH; raises Failure.

    environment: in which there is a Vulkan device.
    """
    wanted = requirement(places)
    key = recipe_key({"requirement": wanted, "flags": FLAGS, "processor": processor_features(), **left_out()})
    folder = places.cache / "llama" / key
    site = places.state / "llama" / key
    if site.exists():
        return site
    if cached(folder) or prebuilt(folder, wanted, PREBUILT_INDEX, places, log, "a quarter of an hour"):
        try:
            _unpack(folder, site, places, log, environment)
            return site
        except Failure:
            say("    the wheel that is there does not work on this machine")
    _build(folder, wanted, places, log)
    _unpack(folder, site, places, log, environment)
    return site


def _unpack(folder: Path, site: Path, places: Places, log: Path, environment: dict[str, str]) -> None:
    """Unpacks the wheel of a folder into `site`; raises Failure unless it finds a Vulkan device."""
    with complete_folder(site) as partial:
        wheel = next(folder.glob("*.whl"))
        run([places.python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", partial, wheel], log)
        run([places.python, "-c", CHECK], log, {**environment, "PYTHONPATH": str(partial)})


def _build(folder: Path, wanted: str, places: Places, log: Path) -> None:
    """Builds the wheel from the source on the package index into a folder; raises Failure."""
    system_packages.ensure(system_packages.BUILD, log)
    headers = vulkan_headers.fetch(places.cache, log) if vulkan_headers.wanted() else None
    arguments = cmake_arguments(FLAGS, headers, undefined())
    environment = {"XLLAMACPP_BUILD_VULKAN": "1", "NPROC": str(processors()), "CMAKE_ARGS": arguments}
    command: Command = [places.python, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-cache-dir"]
    with complete_folder(folder) as partial:
        run([*command, "--no-binary", NAME, "--wheel-dir", partial, wanted], log, environment)
