"""Measures what this pack adds to the start of ComfyUI, in one process that has done ComfyUI's own imports before.

COMFYUI_PATH=... python -m tests.start_up        prints JSON
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tests import pack

NAME = "ggml_vulkan_pack"


@dataclass(frozen=True)
class StartUp:
    """Cost of importing the pack's nodes: seconds, foreign modules imported, files mapped, child processes."""

    seconds: float
    processor_seconds: float
    modules: list[str]
    files: list[str]
    children: int


def in_a_new_process(*options: str) -> tuple[StartUp, str]:
    """A start-up and what Python wrote to its error stream; `options` are Python's own."""
    line = [sys.executable, *options, "-m", "tests.start_up"]
    done = subprocess.run(line, cwd=pack.ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process ended with code {done.returncode}:\n{done.stderr[-3000:]}")
    return StartUp(**json.loads(done.stdout.splitlines()[-1])), done.stderr


def measured() -> StartUp:
    """The start-up of this process."""
    pack.comfy()
    asyncio.run(_comfyui())
    modules, files = set(sys.modules), _mapped()
    start, used = time.perf_counter(), time.process_time()
    pack.load(NAME)
    seconds, processor_seconds = time.perf_counter() - start, time.process_time() - used
    new = (name for name in set(sys.modules) - modules if not name.startswith(NAME))
    children = len(psutil.Process().children(recursive=True))
    return StartUp(seconds, processor_seconds, sorted(new), sorted(_mapped() - files), children)


async def _comfyui() -> None:
    """ComfyUI as it is when it begins with custom nodes."""
    import server

    import nodes

    server.PromptServer(asyncio.get_running_loop())
    await nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False)


def _mapped() -> set[str]:
    """Files in this process's memory; none on systems without /proc."""
    if not Path("/proc/self/maps").exists():
        return set()
    return {area.path for area in psutil.Process().memory_maps() if area.path.startswith("/")}


if __name__ == "__main__":
    print(json.dumps(asdict(measured())))
