"""Official templates of ComfyUI opened, converted, planned for two cards, and run small against core."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

from . import comfyui, vulkan
from .places import Places

PAGE = Path("docs") / "templates.md"


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `dev.py templates`."""
    command.add_argument("names", metavar="NAME", nargs="*", help="globs; without any, all that name local models")
    command.add_argument("--plan", action="store_true", help="plan them at real size: about a minute each")
    command.add_argument(
        "--run", dest="small", action="store_true", help="run them small, against core, where that is possible"
    )
    command.add_argument("--package", metavar="FOLDER", type=Path, help="other templates than the installed ones")
    command.add_argument("--json", metavar="FILE", type=Path, help="write what became of each")
    command.add_argument("--card", metavar="NAME", action="append", help="plan for one of the two cards alone")
    command.add_argument("--resume", action="store_true", help="leave out what the file of --json has the plans of")
    command.add_argument("--page", action="store_true", help=f"write the table of {PAGE}")


def run(here: Places, options: argparse.Namespace) -> int:
    """Takes the templates in ComfyUI's environment; returns the exit code. Files are kept in .dev/templates."""
    environment = {**os.environ, **vulkan.software_environment(here), "COMFYUI_PATH": str(comfyui.tree(here))}
    command = [str(here.python), "-m", "tests.templates", "--folder", str(here.state / "templates"), *options.names]
    command += [f"--{name}" for name in ("plan", "resume") if getattr(options, name)]
    command += ["--run"] if options.small else []  # `run` is the command itself
    command += [part for card in options.card or () for part in ("--card", card)]
    for name, path in (("package", options.package), ("json", options.json)):
        command += [f"--{name}", str(path.absolute())] if path else []
    command += ["--page", str(here.root / PAGE)] if options.page else []
    return subprocess.run(command, cwd=here.root, env=environment, check=False).returncode
