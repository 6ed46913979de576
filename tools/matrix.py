"""The pack in combinations of old and new: ComfyUI, torch and Python, each row in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import comfyui, ggml_wheel, packages, vulkan
from .places import Places
from .processes import Command
from .setup import NETWORK
from .steps import Failure, elapsed, os_failure, run, say, story

OLD_TORCH = ("torch==2.7.0", "torchvision==0.22.0", "torchaudio==2.7.0")
TEST_LIMIT = 400  # seconds for one test
PLANNER = "tests/e2e/test_planner.py::test_"
CHECKS = (
    "tests/e2e/test_host.py",
    "tests/e2e/test_workflows_run.py::test_the_lora_counts",
    "tests/e2e/test_workflows_run.py::test_the_loaded_picture_counts",
    "tests/e2e/test_front_end_files.py",
    f"{PLANNER}what_fits_runs_and_is_reported",
    f"{PLANNER}what_does_not_fit_is_refused_on_every_node_of_ours",
    f"{PLANNER}the_api_tells_the_plan_and_runs_nothing",
    f"{PLANNER}an_interruption_is_for_what_runs_not_for_a_plan",
    "tests/e2e/test_seams_vae.py::test_core_asks_for_tiles",
    "tests/unit/test_planner_interruption.py",
)
EDITOR = "tests/browser/test_editor.py::test_"
EDITOR_CHECKS = (
    "tests/browser/test_conversion.py",
    f"{EDITOR}refused_advised_and_drawn",
    f"{EDITOR}new_nodes_begin_with_what_the_settings_say",
    f"{EDITOR}plans_leave_what_the_settings_say",
    f"{EDITOR}the_monitor_shows_every_device",
)
# Of the time of ComfyUI 0.46, whose own tree no package of the index has; they load in that of 0.30.
NEWER = (
    "comfyui-frontend-package==1.58.1",  # the editor, in which js/ works; 0.30 names 1.47.12
    "comfy-kitchen==0.2.40",  # the operations that core's models call in a trace; 0.30 names 0.2.26
)


@dataclass(frozen=True)
class Row:
    """One combination."""

    comfyui: str
    torch: Sequence[str]
    python: str
    packages: Sequence[str] = ()  # in the place of those that ComfyUI's requirements name

    @property
    def name(self) -> str:
        torch = self.torch[0].partition("==")[2].rpartition(".")[0]
        name = f"comfyui-{self.comfyui}-torch-{torch}-python-{self.python}"
        return f"{name}-newer-packages" if self.packages else name

    @property
    def checks(self) -> Sequence[str]:
        return (*CHECKS, *EDITOR_CHECKS) if self.packages else CHECKS


# From the oldest to the newest; every version of each occurs.
ROWS = (
    Row("0.18", OLD_TORCH, "3.10"),
    Row("0.18", packages.TORCH, "3.11"),
    Row("0.27", OLD_TORCH, "3.12"),
    Row("0.30", OLD_TORCH, "3.11"),
    Row("0.30", packages.TORCH, "3.13"),
    Row("0.30", packages.TORCH, "3.11", NEWER),
)


def chosen(names: Sequence[str]) -> list[Row]:
    """The rows with these names, or all; raises Failure for an unknown name."""
    known = {row.name: row for row in ROWS}
    if unknown := [name for name in names if name not in known]:
        raise Failure(f"there is no row {', '.join(unknown)}", f"the rows are {', '.join(known)}")
    return [known[name] for name in names] or list(ROWS)


def run_rows(here: Places, rows: Sequence[Row], pythons: Sequence[Path], keep: bool) -> int:
    """Runs the rows and shows how each ended; returns 0 where all passed. What a row lacks is no pass."""
    results = []
    for row in rows:
        say(f"--- {row.name}")
        started = time.monotonic()
        results.append((row.name, outcome(here, row, pythons, keep), elapsed(started)))
    for name, result, took in results:
        say(f"{name:53} {took:>12}  {result}")
    return 0 if all(result == "passed" for _, result, _ in results) else 1


def outcome(here: Places, row: Row, pythons: Sequence[Path], keep: bool) -> str:
    """Runs one row and says how it ended, in a few words."""
    python = find_python(row.python, pythons)
    if python is None:
        return f"not run: this machine lacks Python {row.python} (name one with --python FILE)"
    own = Places(root=here.root, state=here.state / "matrix" / row.name, cache=here.cache)
    try:
        own.logs.mkdir(parents=True, exist_ok=True)
        prepare(own, row, python)
        check(own, row)
    except (Failure, OSError) as error:
        failure = error if isinstance(error, Failure) else os_failure(error, own.state)
        say(story(failure, failure.advice))
        return f"failed: {failure.why}"
    finally:
        if not keep:
            shutil.rmtree(own.venv, ignore_errors=True)
    return "passed"


def prepare(own: Places, row: Row, python: Path) -> None:
    """Makes the environment of a row; raises Failure, which says so where the network may be what is missing."""
    log = own.logs / "packages.log"
    started = time.monotonic()
    host = own.state / "ComfyUI"
    try:
        packages.make_venv(own, log, python)
        comfyui.fetch(own, log, row.comfyui)
        packages.install(own, packages.requirements(own, host, row.torch), log)
        if row.packages:  # ComfyUI's requirements name others, so these come after them
            packages.install(own, ["--no-deps", *row.packages], log)
        # comfy-kitchen, which ComfyUI needs, does not import with the triton 3.3 of torch 2.7 where CUDA finds no GPU.
        if row.torch == OLD_TORCH and not vulkan.has_gpu():
            run([own.python, "-m", "pip", "uninstall", "--yes", "--quiet", "triton"], log)
        ggml_wheel.install(own, log)
    except Failure as failure:
        why = f"its packages are not installed: {failure.why}"
        raise Failure(why, failure.advice or NETWORK, failure.log) from failure
    say(f"    its environment is ready after {elapsed(started)}")


def check(own: Places, row: Row) -> None:
    """Runs the end-to-end tests of a row with its Python in its ComfyUI; raises Failure where one fails."""
    log = own.logs / "tests.log"
    environment = {"COMFYUI_PATH": str(own.state / "ComfyUI"), **vulkan.software_environment(own)}
    command: Command = [own.python, "-m", "pytest", "--verbose", f"--timeout={TEST_LIMIT}", *row.checks]
    try:
        run(command, log, environment, cwd=own.root)
    except Failure as failure:
        raise Failure(f"tests failed, see {log}", log=log) from failure


def find_python(version: str, named: Sequence[Path]) -> Path | None:
    """A Python of this version: of those named, on PATH, or of pyenv."""
    on_path = shutil.which(f"python{version}")
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for candidate in (*named, *([Path(on_path)] if on_path else []), *kept):
        if version_of(candidate) == version:
            return candidate
    return None


def version_of(python: Path) -> str | None:
    """Such as 3.10; None for what is no Python that runs, as pyenv's stand-ins for versions that are not chosen."""
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return answer.stdout.strip() or None
