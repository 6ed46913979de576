"""Memory of a language model on its device and in RAM: from its file's header, and as llama.cpp estimates it."""

from __future__ import annotations

import math
import queue
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO

from ..placement import CPU, MIB
from ..weights.header import read_header
from ..weights.weight_file import WeightFile
from .model import ALL_LAYERS, LanguageModelError, LocalModel
from .server_process import start_child, task_of

_KV_BYTES = 2  # F16
_KV_STEP = 256  # tokens; llama.cpp rounds the context up to it
_TIME_LIMIT = 120.0  # seconds
_COMPUTE = re.compile(r"sched_reserve: +(\S+) compute buffer size = +([\d.]+) MiB")
_OUTPUT = re.compile(r"llama_context: +(\S+) +output buffer size = +([\d.]+) MiB")
_LAST_LINE = "fitting params to free memory took"
_LOG_RESOLUTION = 0.01  # MiB, of llama.cpp's log


@dataclass(frozen=True)
class LanguageModelMemory:
    """Bytes of a model on its device and on the CPU."""

    weights: int  # on the device
    weights_on_cpu: int  # pages of the mapped file, not a copy of it
    kv: int  # the KV cache, on the device
    kv_on_cpu: int

    @property
    def on_device(self) -> int:
        """Bytes on the device, without the compute buffer."""
        return self.weights + self.kv

    @property
    def on_cpu(self) -> int:
        """Bytes in RAM, without the compute buffer."""
        return self.weights_on_cpu + self.kv_on_cpu


def memory_of(header: WeightFile, device: str, layers: int, context: int) -> LanguageModelMemory:
    """The bytes that llama.cpp allocates for a GGUF file of this header, without compute buffers (`compute_buffers`).

    layers: on the device, counted from the last one, with the output as one more; ALL_LAYERS for all. context: tokens.
    Weights are exact. The KV cache is exact for models that attend to the whole context in every layer, and an upper
    bound for those with sliding windows or recurrent layers.
    """
    blocks = int(header.metadata[f"{header.architecture}.block_count"])
    first = 0 if layers == ALL_LAYERS else max(blocks + 1 - layers, 0)
    if device == CPU:
        first = blocks + 1
    weights = {True: 0, False: 0}
    for name, tensor in header.tensors.items():
        weights[_layer_of(name, blocks) >= first] += tensor.nbytes
    embedding = header.tensors.get("token_embd.weight")
    if embedding is not None and "output.weight" not in header.tensors and blocks >= first:
        weights[True] += embedding.nbytes  # it is the output's weight too, and the input's stays on the CPU
    cells = -(-context // _KV_STEP) * _KV_STEP
    cache = {True: 0, False: 0}
    for block in range(blocks):
        cache[block >= first] += cells * _kv_channels(header, block) * _KV_BYTES
    return LanguageModelMemory(weights[True], weights[False], cache[True], cache[False])


def compute_buffers(model: LocalModel, interrupted: Callable[[], bool] = lambda: False) -> dict[str, int]:
    """Bytes of the compute and output buffers by llama.cpp's device name, such as CPU, rounded up to 10 kB.

    llama.cpp estimates them in a child, from the file's header; no weights are loaded.
    Raises LanguageModelError when it cannot, or is `interrupted`.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read(output: IO[bytes]) -> None:
        output.read()

    task = task_of(model, secrets.token_urlsafe(32), estimate_only=True)
    child = start_child(task, read, lambda: lines.put(None), lines.put)
    deadline = time.monotonic() + _TIME_LIMIT
    buffers: dict[str, int] = {}
    try:
        while not interrupted() and time.monotonic() < deadline:
            try:
                line = lines.get(timeout=0.05)
            except queue.Empty:
                continue
            if line is None or _LAST_LINE in line:
                break
            for match in (_COMPUTE.search(line), _OUTPUT.search(line)):
                if match:
                    mebibytes = float(match[2]) + _LOG_RESOLUTION / 2  # the log rounds to the nearest
                    buffers[match[1]] = buffers.get(match[1], 0) + math.ceil(mebibytes * MIB)
    finally:
        child.kill()
    if buffers:
        return buffers
    raise LanguageModelError(f"llama.cpp could not work out what {model.path} takes: {child.exit_report()}")


def memory_of_model(model: LocalModel) -> LanguageModelMemory:
    """`memory_of` for a model and its projector, on its device. Raises WeightFileError when a file is gone."""
    memory = memory_of(read_header(model.path), model.device, model.layers, model.context)
    if model.projector is None:
        return memory
    projector = sum(tensor.nbytes for tensor in read_header(model.projector).tensors.values())
    if model.device == CPU:
        return replace(memory, weights_on_cpu=memory.weights_on_cpu + projector)
    return replace(memory, weights=memory.weights + projector)


def _layer_of(name: str, blocks: int) -> int:
    """The layer whose device holds a tensor; -1 for the input embeddings, which are always on the CPU."""
    kind, _, rest = name.partition(".")
    if kind == "blk":
        return int(rest.split(".")[0])
    return blocks if kind.startswith("output") else -1


def _kv_channels(header: WeightFile, block: int) -> int:
    """Elements that a token adds to the K and V caches of a layer."""

    def of(key: str) -> int | None:
        value = header.metadata.get(f"{header.architecture}.{key}")
        if isinstance(value, list):
            value = value[block]
        return value if isinstance(value, int) else None

    heads = of("attention.head_count") or 1
    shared = of("attention.head_count_kv")
    width = (of("embedding_length") or 0) // heads
    per_head = (of("attention.key_length") or width) + (of("attention.value_length") or width)
    return (heads if shared is None else shared) * per_head
