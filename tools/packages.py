"""The virtual environment and the Python packages in it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from . import comfyui
from .places import Places
from .steps import Failure, Stamp, recipe_key, run, say

UV = "uv==0.13.8"
# The newest three that agree with each other on one build of CUDA; torch runs on the CPU with them as well.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")


def venv_recipe() -> str:
    return recipe_key({"python": sys.version_info[:2], "uv": UV})


def venv_stamp(places: Places) -> Stamp:
    return Stamp(places.venv / "steps" / "venv")


def has_venv(places: Places) -> bool:
    return places.python.exists() and venv_stamp(places).matches(venv_recipe())


def make_venv(places: Places, log: Path, python: Path | None = None) -> None:
    """Makes the virtual environment anew, with pip and uv; an unfinished one is thrown away."""
    if places.venv.exists():
        shutil.rmtree(places.venv)
    if python is None:  # the one below any environment that dev.py itself may run in
        python = Path(getattr(sys, "_base_executable", None) or sys.executable)
    run([python, "-m", "venv", places.venv], log)
    run([places.python, "-m", "pip", "install", "--quiet", UV], log)
    venv_stamp(places).write(venv_recipe())


def requirement_files(places: Places, host: Path) -> list[Path]:
    """The requirements of the ComfyUI at `host`, the pack's, and the tests'."""
    return [folder / "requirements.txt" for folder in (host, places.root, places.root / "tools")]


def requirements(places: Places, host: Path, torch: Sequence[str] = TORCH) -> list[str]:
    """All that is installed, as arguments of an installer, but for ggml: its wheel is a step of its own."""
    comfy, pack, tests = requirement_files(places, host)
    lines = pack.read_text(encoding="utf-8").splitlines()
    plain = [line for line in lines if line and not line.startswith("#")]
    return [*torch, *plain, "-r", str(comfy), "-r", str(tests)]


def packages_recipe(places: Places) -> str:
    files = requirement_files(places, comfyui.tree(places))
    return recipe_key({"torch": TORCH, "files": [file.read_text("utf-8") for file in files]})


def packages_stamp(places: Places) -> Stamp:
    return Stamp(places.venv / "steps" / "packages")


def has_packages(places: Places) -> bool:
    return packages_stamp(places).matches(packages_recipe(places))


def install_packages(places: Places, log: Path) -> None:
    """Installs all packages of the checkout's own environment."""
    install(places, requirements(places, comfyui.tree(places)), log)
    packages_stamp(places).write(packages_recipe(places))


def install(places: Places, wanted: Sequence[str], log: Path) -> None:
    """Installs packages with uv, or with pip where uv fails (it does not read pip's configuration)."""
    try:
        run([places.program("uv"), "pip", "install", "--python", places.python, *wanted], log)
    except Failure:
        say("    uv could not install them (its reasons are in the log): trying pip, which takes longer")
        run([places.python, "-m", "pip", "install", *wanted], log)
