"""The row of steps that makes a checkout ready to run."""

from __future__ import annotations

import time

from . import comfyui, ggml_wheel, packages, system_packages
from .places import Places
from .steps import Step, elapsed, run_steps, say

NETWORK = "check that this machine reaches the Python package index (proxy, certificates, disk space)"


def steps(places: Places) -> list[Step]:
    """All steps, each of which builds on those before it."""
    return [
        Step(
            name="System packages",
            done=lambda: not system_packages.missing(system_packages.RUNTIME),
            action=lambda log: system_packages.ensure(system_packages.RUNTIME, log),
            advice="read the last lines above; the package sources of this machine may be out of reach",
        ),
        Step(
            name="Virtual environment",
            done=lambda: packages.has_venv(places),
            action=lambda log: packages.make_venv(places, log),
            advice=NETWORK,
        ),
        Step(
            name="ComfyUI",
            done=lambda: comfyui.is_present(places),
            action=lambda log: comfyui.fetch(places, log),
            advice=f"{NETWORK}, or set COMFYUI_PATH to a ComfyUI that you have",
        ),
        Step(
            name="Python packages",
            done=lambda: packages.has_packages(places),
            action=lambda log: packages.install_packages(places, log),
            advice=f"{NETWORK}; about 8 GiB are needed",
        ),
        Step(
            name="ggml with Vulkan",
            done=lambda: ggml_wheel.is_installed(places),
            action=lambda log: ggml_wheel.install(places, log),
            advice=f"{NETWORK}; for an error of the compiler, read the log from its first 'error:'",
        ),
    ]


def browser() -> Step:
    """The step that installs the browser for the tests of the editor."""
    return Step(
        name="Browser",
        done=lambda: not system_packages.missing(system_packages.BROWSER),
        action=lambda log: system_packages.ensure(system_packages.BROWSER, log),
        advice="read the last lines above; the package sources of this machine may be out of reach",
    )


def set_up(places: Places, tests: bool = False) -> None:
    """Does what is missing, for the tests too; raises SystemExit with the reason when that cannot be done."""
    started = time.monotonic()
    run_steps([*steps(places), *([browser()] if tests else [])], places.logs)
    say(f"Set-up is complete ({elapsed(started)}).")
