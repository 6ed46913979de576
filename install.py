"""Installs ggml for this pack: its authors' build with Vulkan, or one for the CPU alone where that cannot be had.

ComfyUI-Manager and comfy-cli run this after requirements.txt, with ComfyUI's Python, and again on updates. By hand:
`python install.py`, or `python install.py cpu` for the build without Vulkan. It installs one package, without what that
package asks for: torch is never touched. Nothing else in this pack runs pip.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

# Exact: the bindings call into the C library by memory layout, which changes between releases.
VERSION = "0.0.45"
REQUIREMENT = f"ggml-python=={VERSION}"
# The usual package index has only the source, from which pip builds for the CPU; its authors' own index has wheels.
INDEX = "https://abetlen.github.io/ggml-python/whl"
INDEX_VARIABLE = "GGML_WHEEL_INDEX"  # another place that is laid out like it
CHECK_TIMEOUT = 300.0  # seconds; a virus scanner may look at the libraries first
# In a process of its own: a library that cannot be loaded may end it.
CHECK = """
import importlib.metadata, json, pathlib
version = importlib.metadata.version("ggml-python")
import ggml
print(json.dumps([version, any(pathlib.Path(ggml.__file__).parent.rglob("*ggml-vulkan*"))]))
"""
HOW = (
    "To change it, run install.py in this pack's folder with ComfyUI's Python: `python install.py` tries the build "
    "with Vulkan again, `python install.py cpu` takes the one without."
)


@dataclass(frozen=True)
class Build:
    """A place that ggml can be installed from."""

    words: str
    vulkan: bool
    wheels: str = ""  # the address of an index of wheels; "": the source from the usual index


@dataclass(frozen=True)
class Installed:
    """The ggml that this Python has."""

    version: str = ""  # "": none that can be loaded
    vulkan: bool = False
    fault: str = ""  # why it cannot be loaded

    @property
    def usable(self) -> bool:
        """Whether this pack can run with it."""
        return self.version == VERSION


def builds(vulkan: bool) -> list[Build]:
    """The places to try, the best first; vulkan: whether that is wanted."""
    index = os.environ.get(INDEX_VARIABLE, "").strip().rstrip("/") or INDEX

    found = [Build("its authors' build with Vulkan", True, f"{index}/vulkan")] if vulkan else []
    return [
        *found,
        Build("its authors' build for the CPU alone", False, f"{index}/cpu"),
        Build("a build for the CPU alone from its source, which takes a C compiler and minutes", False),
    ]


def installed() -> Installed:
    """Looks at the ggml that is there, by loading its libraries."""
    try:
        done = subprocess.run(
            [*_python(), "-c", CHECK], capture_output=True, text=True, timeout=CHECK_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Installed(fault=str(error))
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()]
        return Installed(fault=last[-1][:500] if last else f"it ended with code {done.returncode}")
    version, vulkan = json.loads(done.stdout.splitlines()[-1])
    return Installed(version, vulkan)


def install(build: Build) -> bool:
    """Installs one build in place of what is there; False where it cannot be had."""
    options = ["--force-reinstall", "--no-deps", *(["--only-binary", ":all:"] if build.wheels else []), REQUIREMENT]
    # In place of the usual index, not besides: a wheel without Vulkan from there might be taken for the one with it.
    pip = [*options, "--retries", "1", "--timeout", "20", *(["--index-url", build.wheels] if build.wheels else [])]
    uv = [*options, "--python", sys.executable, *(["--default-index", build.wheels] if build.wheels else [])]
    if importlib.util.find_spec("pip") is not None:
        command = [*_python(), "-m", "pip", "install", *pip]
    elif importlib.util.find_spec("uv") is not None:
        command = [*_python(), "-m", "uv", "pip", "install", *uv]
    elif program := shutil.which("uv"):
        command = [program, "pip", "install", *uv]
    else:
        _say("neither pip nor uv is there for this Python, so that nothing can be installed. Install pip first.")
        return False
    return subprocess.run(command, check=False).returncode == 0


def main(arguments: list[str]) -> int:
    """Installs the best build there is, unless it is there; returns the exit code."""
    if arguments not in ([], ["vulkan"], ["cpu"]):
        _say("install.py takes nothing, `vulkan` or `cpu`.")
        return 2
    wanted = arguments != ["cpu"]
    now = installed()
    if now.usable and now.vulkan == wanted:
        _say(f"{_words(now)} is there already.")
        return 0
    for build in builds(wanted):
        if wanted and now.usable and not build.vulkan:
            break  # what is there is for the CPU, too
        _say(f"installing {REQUIREMENT}: {build.words} ...")
        if not install(build):
            _say(f"not to be had here: {build.words}.")
            continue
        now = installed()
        if now.usable and now.vulkan >= build.vulkan:
            break
        _say(f"it does not work on this computer: {now.fault or 'it is not what it says'}.")
        if build.vulkan and "vulkan" in now.fault:
            _say("Vulkan's loader, which comes with the graphics driver, is missing. Install it, and run this again.")
    return _end(now, wanted)


def _end(now: Installed, wanted: bool) -> int:
    """Says what there is in the end; returns the exit code."""
    if not now.usable:
        _say(
            f"ggml could not be installed. See the lines of pip above: this computer may not reach {INDEX}, or may "
            f"lack a C compiler. This pack's loaders do not work until it is. {HOW}"
        )
        return 1
    _say(f"{_words(now)} is installed.")
    if wanted and not now.vulkan:
        _say(f"No GPU can be used with it. {HOW}")
    return 0


def _words(found: Installed) -> str:
    return f"ggml-python {found.version} {'with Vulkan' if found.vulkan else 'for the CPU alone'}"


def _python() -> list[str]:
    """This Python; ComfyUI's portable one looks at no packages of the user's, nor must this."""
    alone = sys.flags.no_user_site or "python_embeded" in sys.executable
    return [sys.executable, *(["-s"] if alone else [])]


def _say(text: str) -> None:
    print(f"[ggml-vulkan] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
