"""The checks of `dev.py test`: ruff, its format, mypy and pytest, all of them run whatever the first says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import comfyui, processes, vulkan
from .places import Places
from .processes import Command
from .server import link_folder
from .steps import say

TEST_LIMIT = 1500  # seconds for one test: a hang must not eat the whole run


def run_checks(places: Places, pytest_arguments: Sequence[str]) -> int:
    """Runs them and returns the exit code of the first that fails, or 0."""
    python = places.python
    environment = {"COMFYUI_PATH": str(comfyui.tree(places)), **vulkan.software_environment(places)}
    checks: dict[str, tuple[Command, Path]] = {
        "ruff": ([python, "-m", "ruff", "check", "."], places.root),
        "ruff format": ([python, "-m", "ruff", "format", "--check", "."], places.root),
        "mypy of dev.py, plan.py and tools": ([python, "-m", "mypy", "dev.py", "plan.py", "tools"], places.root),
        "mypy of the pack": (pack_type_check(places), type_check_folder(places)),
        "pytest": ([python, "-m", "pytest", f"--timeout={TEST_LIMIT}", *pytest_arguments], places.root),
    }
    codes = {name: check(name, command, folder, environment) for name, (command, folder) in checks.items()}
    failed = [name for name, code in codes.items() if code]
    if failed:
        say(f"Failed: {', '.join(failed)}")
    return codes[failed[0]] if failed else 0


def pack_type_check(places: Places) -> Command:
    """mypy for the pack as ComfyUI loads it, a package with a name, so that `from ..native` is understood."""
    packages = [part for name in ("native", "nodes") for part in ("-p", f"pack.{name}")]
    config = places.root / "pyproject.toml"
    return [places.python, "-m", "mypy", "--config-file", config, "--cache-dir", places.state / "mypy", *packages]


def type_check_folder(places: Places) -> Path:
    """A folder in which the checkout, whatever its own name, is the package `pack`."""
    folder = places.state / "typecheck"
    folder.mkdir(parents=True, exist_ok=True)
    link_folder(folder / "pack", places.root)
    return folder


def check(name: str, command: Command, folder: Path, environment: Mapping[str, str]) -> int:
    """Runs one check on this terminal and returns its exit code."""
    say(f"--- {name}")
    inherited = {name: value for name, value in os.environ.items() if name not in processes.FOREIGN}
    process = subprocess.Popen([str(part) for part in command], cwd=folder, env={**inherited, **environment})
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
