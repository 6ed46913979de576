"""llama.cpp's server as xllamacpp gives it: the one place that imports it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import xllamacpp

from .task import Task

_HOST = "127.0.0.1"
_WARNINGS, _EVERYTHING = 2, 5  # llama.cpp's verbosity; from 4 on it also shows the end of the key
_ALL = 1 << 16  # layers; llama.cpp takes as many as there are
_server: Any = None  # its destructor would end it


class Unusable(Exception):
    """The task cannot be done here; the message says why."""


def serve(task: Task) -> int:
    """Load the model and serve it; returns the port. Raises Unusable."""
    global _server
    try:
        _server = xllamacpp.Server(parameters(task))
    except RuntimeError as error:
        raise Unusable(f"{error}") from error
    port = urlsplit(_server.listening_address).port
    if port is None:
        raise Unusable(f"the server listens at {_server.listening_address}, which has no port")
    return port


def parameters(task: Task) -> Any:
    """llama.cpp's parameters for a task."""
    wanted = xllamacpp.CommonParams()
    wanted.model.path = task.model
    if task.projector is not None:
        wanted.mmproj.path = task.projector
    wanted.mmproj_use_gpu = task.device != "CPU"
    wanted.hostnames, wanted.port, wanted.api_keys = [_HOST], 0, [task.key]
    wanted.cors_origins = ""  # no page in a browser has business here
    wanted.ui = wanted.warmup = False  # what a first run touches and compiles, the first answer does as well
    wanted.endpoint_slots = wanted.endpoint_props = wanted.endpoint_metrics = False
    wanted.verbosity = _EVERYTHING if task.measured else _WARNINGS
    wanted.split_mode = xllamacpp.llama_split_mode.LLAMA_SPLIT_MODE_NONE
    wanted.main_gpu, wanted.n_gpu_layers = _device(task)
    wanted.fit_params = task.measured  # it works out what a model takes, and changes only what is left open
    wanted.n_ctx, wanted.n_parallel = task.context, 1
    wanted.cache_ram_mib = wanted.n_ctx_checkpoints = 0  # up to 8 GiB of answered prompts
    wanted.use_jinja = task.template
    wanted.no_extra_bufts = True  # weights are used in place from the file: no copy, no seconds of repacking
    if task.threads:
        wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = task.threads
    return wanted


def _device(task: Task) -> tuple[int, int]:
    """llama.cpp's main_gpu, -1 for none, and n_gpu_layers."""
    if task.device == "CPU":
        return -1, 0
    there = [info for info in xllamacpp.get_device_info() if info["type"].name.endswith("GPU")]
    names = [info["name"] for info in there]
    if task.device not in names:
        found = ", ".join(f"{info['name']} ({info['description']})" for info in there) or "none but the CPU"
        raise Unusable(f"no device {task.device} for language models; it knows {found}")
    return names.index(task.device), _ALL if task.layers < 0 else task.layers
