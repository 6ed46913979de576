"""Runs llama.cpp's server through xllamacpp, in the child; the only module that imports that package."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import xllamacpp

from ..placement import CPU
from .task import Task

_HOST = "127.0.0.1"
_LOG_WARNINGS, _LOG_ALL = 2, 5  # llama.cpp's verbosity; from 4 on it also shows the end of the key
_ALL_LAYERS = 1 << 16  # layers; llama.cpp takes as many as there are
_server: Any = None  # its destructor would end it


class Unusable(Exception):
    """llama.cpp cannot run the task; the message says why."""


def serve(task: Task) -> int:
    """Loads the model, serves it on loopback and returns the port. Raises Unusable."""
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
    """llama.cpp's CommonParams for a task. Raises Unusable for a device that it does not have."""
    params = xllamacpp.CommonParams()
    params.model.path = task.model
    if task.projector is not None:
        params.mmproj.path = task.projector
    params.mmproj_use_gpu = task.device != CPU
    params.hostnames, params.port, params.api_keys = [_HOST], 0, [task.key]
    params.cors_origins = ""  # no page in a browser has business here
    params.ui = params.warmup = False  # what a first run touches and compiles, the first answer does as well
    params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.verbosity = _LOG_ALL if task.estimate_only else _LOG_WARNINGS
    params.split_mode = xllamacpp.llama_split_mode.LLAMA_SPLIT_MODE_NONE
    params.main_gpu, params.n_gpu_layers = _device(task)
    params.fit_params = task.estimate_only  # it works out what a model takes, and changes only what is left open
    params.n_ctx, params.n_parallel = task.context, 1
    params.cache_ram_mib = params.n_ctx_checkpoints = 0  # up to 8 GiB of answered prompts
    params.use_jinja = task.template
    params.no_extra_bufts = True  # weights are used in place from the file: no copy, no seconds of repacking
    if task.threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = task.threads
    return params


def _device(task: Task) -> tuple[int, int]:
    """llama.cpp's main_gpu (-1: none) and n_gpu_layers."""
    if task.device == CPU:
        return -1, 0
    gpus = [info for info in xllamacpp.get_device_info() if info["type"].name.endswith("GPU")]
    names = [info["name"] for info in gpus]
    if task.device not in names:
        known = ", ".join(f"{info['name']} ({info['description']})" for info in gpus) or "none but the CPU"
        raise Unusable(f"no device {task.device} for language models; it knows {known}")
    return names.index(task.device), _ALL_LAYERS if task.layers < 0 else task.layers
