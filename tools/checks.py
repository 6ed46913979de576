"""The checks of `dev.py test`: ruff, its format and mypy side by side, then pytest, whatever the others say."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile

from . import comfyui, processes, vulkan
from .places import Places
from .processes import Command
from .server import link_folder
from .steps import say

TEST_LIMIT = 1500  # seconds for one test: a hang must not eat the whole run


def run_checks(places: Places, pytest_arguments: Sequence[str]) -> int:
    """Runs them and returns the exit code of the first that fails, or 0; pytest's summary is said last."""
    software = vulkan.software_environment(places)
    environment = {"COMFYUI_PATH": str(comfyui.tree(places)), **software}
    codes = check_side_by_side(static_checks(places), environment)
    if failed := [name for name, code in codes.items() if code]:
        say(f"Failed: {', '.join(failed)}")
    files = {argument.partition("::")[0] for argument in pytest_arguments if ".py" in argument}
    # One file goes to one worker. Two on one GPU would take each other's memory.
    command = pytest_command(places, workers=2 if software and len(files) != 1 else 0)
    # Threads that wait sleep, as the cores are shared.
    environment["OMP_WAIT_POLICY"] = "passive"
    codes["pytest"] = check("pytest", [*command, *pytest_arguments], places.root, environment)
    return next((code for code in codes.values() if code), 0)


def static_checks(places: Places) -> dict[str, tuple[Command, Path]]:
    """The checks that run no test: by name, a command and its folder."""
    python, config = places.python, places.root / "pyproject.toml"
    # A cache of its own, as the other mypy runs at the same time.
    pack: Command = [python, "-m", "mypy", "--config-file", config, "--cache-dir", places.state / "mypy-pack"]
    return {
        "ruff": ([python, "-m", "ruff", "check", "."], places.root),
        "ruff format": ([python, "-m", "ruff", "format", "--check", "."], places.root),
        "mypy of the scripts and tools": (
            [python, "-m", "mypy", "dev.py", "install.py", "plan.py", "tools"],
            places.root,
        ),
        "mypy of the pack": ([*pack, "-p", "pack.native", "-p", "pack.nodes"], type_check_folder(places)),
    }


def type_check_folder(places: Places) -> Path:
    """A folder in which the checkout, whatever its own name, is the package `pack`, as ComfyUI loads it."""
    folder = places.state / "typecheck"
    folder.mkdir(parents=True, exist_ok=True)
    link_folder(folder / "pack", places.root)
    return folder


def pytest_command(places: Places, workers: int) -> Command:
    """pytest with whole files to each worker (see tests/conftest.py), in the folders' order; it names the slowest."""
    distribution = ["--numprocesses", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]
    slowest = ["--durations=20", "--durations-min=5"]  # seconds
    return [places.python, "-m", "pytest", f"--timeout={TEST_LIMIT}", *distribution, *slowest]


def check_side_by_side(checks: Mapping[str, tuple[Command, Path]], environment: Mapping[str, str]) -> dict[str, int]:
    """Runs checks at the same time and shows each one's output in one piece; returns their exit codes."""
    with ExitStack() as stack:
        running = {}
        for name, (command, folder) in checks.items():
            output = stack.enter_context(TemporaryFile())
            process = processes.start(command, output, environment, folder)
            stack.callback(processes.stop, process)
            running[name] = process, output
        codes = {}
        for name, (process, output) in running.items():
            codes[name] = process.wait()
            output.seek(0)
            say(f"--- {name}\n{output.read().decode(errors='replace').rstrip()}")
        return codes


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
