"""The virtual environment and the Python packages in it."""

from __future__ import annotations

import shutil
import sys
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


def make_venv(places: Places, log: Path) -> None:
    """Makes the virtual environment anew, with pip and uv; an unfinished one is thrown away."""
    if places.venv.exists():
        shutil.rmtree(places.venv)
    # The Python below any environment that dev.py itself may run in.
    python = getattr(sys, "_base_executable", None) or sys.executable
    run([python, "-m", "venv", places.venv], log)
    run([places.python, "-m", "pip", "install", "--quiet", UV], log)
    venv_stamp(places).write(venv_recipe())


def requirement_files(places: Places) -> list[Path]:
    """ComfyUI's requirements, the pack's, and the tests'."""
    folders = (comfyui.tree(places), places.root, places.root / "tools")
    return [folder / "requirements.txt" for folder in folders]


def requirements(places: Places) -> list[str]:
    """All that is installed, as arguments of an installer, but for ggml: its wheel is a step of its own."""
    host, pack, tests = requirement_files(places)
    lines = pack.read_text(encoding="utf-8").splitlines()
    plain = [line for line in lines if line and not line.startswith(("#", "ggml-python"))]
    return [*TORCH, *plain, "-r", str(host), "-r", str(tests)]


def packages_recipe(places: Places) -> str:
    return recipe_key({"torch": TORCH, "files": [file.read_text("utf-8") for file in requirement_files(places)]})


def packages_stamp(places: Places) -> Stamp:
    return Stamp(places.venv / "steps" / "packages")


def has_packages(places: Places) -> bool:
    return packages_stamp(places).matches(packages_recipe(places))


def install_packages(places: Places, log: Path) -> None:
    """Installs all packages with uv, or with pip where uv fails (it does not read pip's configuration)."""
    wanted = requirements(places)
    try:
        run([places.program("uv"), "pip", "install", "--python", places.python, *wanted], log)
    except Failure:
        say("    uv could not install them (its reasons are in the log): trying pip, which takes longer")
        run([places.python, "-m", "pip", "install", *wanted], log)
    packages_stamp(places).write(packages_recipe(places))
