"""How a child with llama.cpp is started: what it is told, and which devices it sees."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import IO

from ..placement import CPU
from ..process.child import Child
from ..threads import wanted_threads
from .errors import LanguageModelError
from .model import LocalModel
from .task import Task

PACKAGE, VERSION = "xllamacpp", "2026.10.11549"  # as requirements.txt pins it
GPU_INDEX = "https://xorbitsai.github.io/xllamacpp/whl/vulkan"
_VISIBLE = "GGML_VK_VISIBLE_DEVICES"


def start_child(
    task: Task,
    read: Callable[[IO[bytes]], None],
    ended: Callable[[], None],
    heard: Callable[[str], None] = lambda _: None,
) -> Child:
    """A child that does a task; the arguments are Child's. Raises LanguageModelError."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise LanguageModelError(
            f"Language models on this machine need the Python package {PACKAGE}, which is not installed. "
            f'Install it with: "{sys.executable}" -m pip install {PACKAGE}=={VERSION} (for a GPU add '
            f"--index-url {GPU_INDEX}), and start ComfyUI again. The node GGML Language Server needs no package."
        )
    name, environment = _alone(task.device)
    told = json.dumps(asdict(replace(task, device=name)))
    try:
        child = Child("llm", (), environment, read, ended, heard)
        child.stdin.write(told.encode() + b"\n")
        child.stdin.flush()
    except OSError as error:
        raise LanguageModelError(f"The process for the language model could not be started: {error}.") from error
    return child


def task_of(model: LocalModel, key: str, measured: bool = False) -> Task:
    """What a child is asked for a model; raises RunnerError when the user's number of threads is none."""
    threads = model.threads or wanted_threads() or 0
    return Task(model.path, key, model.device, model.layers, model.context, threads, model.projector, measured=measured)


def _alone(device: str) -> tuple[str, dict[str, str]]:
    """What a device is called in a child that sees no other GPU as far as that can be said, and the child's variables.

    The numbers of Vulkan devices count those that the user lets ggml see; without such a list they are ggml's choice,
    which is the same in the child.
    """
    if device == CPU:
        return device, {"GGML_DISABLE_VULKAN": "1"}  # no driver is loaded for nothing
    visible = [each for each in os.environ.get(_VISIBLE, "").split(",") if each]
    number = device.removeprefix("Vulkan")
    if number.isdecimal() and int(number) < len(visible):
        return "Vulkan0", {_VISIBLE: visible[int(number)]}
    return device, {}
