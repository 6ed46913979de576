"""What a language model takes of its device and of RAM: from its file's header, and as llama.cpp works it out."""

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
from .errors import LanguageModelError
from .model import ALL_LAYERS, LocalModel
from .start import start_child, task_of

_KV_BYTES = 2  # F16
_KV_STEP = 256  # tokens; llama.cpp rounds the context up to it
_LIMIT = 120.0  # seconds
_COMPUTE = re.compile(r"sched_reserve: +(\S+) compute buffer size = +([\d.]+) MiB")
_OUTPUT = re.compile(r"llama_context: +(\S+) +output buffer size = +([\d.]+) MiB")
_END = "fitting params to free memory took"
_SMALLEST = 0.01  # MiB; llama.cpp's log says no less


@dataclass(frozen=True)
class LanguageModelMemory:
    """Bytes on the device of a model and on the CPU; on the CPU weights are pages of the file, not a copy of it."""

    weights: int
    weights_on_cpu: int
    kv: int
    kv_on_cpu: int

    @property
    def on_device(self) -> int:
        """Without the compute buffer."""
        return self.weights + self.kv

    @property
    def on_cpu(self) -> int:
        """Without the compute buffer."""
        return self.weights_on_cpu + self.kv_on_cpu


def memory_of(header: WeightFile, device: str, layers: int, context: int) -> LanguageModelMemory:
    """What llama.cpp allocates for a GGUF file of this header, but for compute buffers (see `compute_buffers`).

    layers: on the device, from the last one on, the output counted as one more; ALL_LAYERS for all. context: tokens.
    Weights are exact. The cache is exact for models that see the whole context in every layer, and an upper bound for
    those with sliding windows or recurrent layers.
    """
    blocks = int(header.metadata[f"{header.architecture}.block_count"])
    first = 0 if layers == ALL_LAYERS else max(blocks + 1 - layers, 0)
    if device == CPU:
        first = blocks + 1
    weights = {True: 0, False: 0}
    for name, tensor in header.tensors.items():
        weights[_place(name, blocks) >= first] += tensor.nbytes
    embedding = header.tensors.get("token_embd.weight")
    if embedding is not None and "output.weight" not in header.tensors and blocks >= first:
        weights[True] += embedding.nbytes  # it is the output's weight too, and the input's stays on the CPU
    cells = -(-context // _KV_STEP) * _KV_STEP
    cache = {True: 0, False: 0}
    for block in range(blocks):
        cache[block >= first] += cells * _kv_channels(header, block) * _KV_BYTES
    return LanguageModelMemory(weights[True], weights[False], cache[True], cache[False])


def compute_buffers(model: LocalModel, interrupted: Callable[[], bool] = lambda: False) -> dict[str, int]:
    """Bytes of the compute and output buffers by llama.cpp's name of where they lie, such as CPU, rounded up to 10 kB.

    llama.cpp works them out in a child, from the file's header; nothing is loaded.
    Raises LanguageModelError when it cannot, or is `interrupted`.
    """
    heard: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read(output: IO[bytes]) -> None:
        output.read()

    task = task_of(model, secrets.token_urlsafe(32), measured=True)
    child = start_child(task, read, lambda: heard.put(None), heard.put)
    deadline = time.monotonic() + _LIMIT
    found: dict[str, int] = {}
    try:
        while not interrupted() and time.monotonic() < deadline:
            try:
                line = heard.get(timeout=0.05)
            except queue.Empty:
                continue
            if line is None or _END in line:
                break
            for said in (_COMPUTE.search(line), _OUTPUT.search(line)):
                if said:
                    mebibytes = float(said[2]) + _SMALLEST / 2  # it is rounded to the nearest
                    found[said[1]] = found.get(said[1], 0) + math.ceil(mebibytes * MIB)
    finally:
        child.kill()
    if found:
        return found
    raise LanguageModelError(f"llama.cpp could not work out what {model.path} takes: {child.exit_report()}")


def memory_of_model(model: LocalModel) -> LanguageModelMemory:
    """`memory_of` for a model as it is placed, with its projector; raises WeightFileError when a file is gone."""
    taken = memory_of(read_header(model.path), model.device, model.layers, model.context)
    if model.projector is None:
        return taken
    eyes = sum(tensor.nbytes for tensor in read_header(model.projector).tensors.values())
    if model.device == CPU:
        return replace(taken, weights_on_cpu=taken.weights_on_cpu + eyes)
    return replace(taken, weights=taken.weights + eyes)


def _place(name: str, blocks: int) -> int:
    """The layer whose device holds a tensor; the embeddings of the input are always on the CPU."""
    kind, _, rest = name.partition(".")
    if kind == "blk":
        return int(rest.split(".")[0])
    return blocks if kind.startswith("output") else -1


def _kv_channels(header: WeightFile, block: int) -> int:
    """Elements that one token adds to the caches of K and V of a layer."""

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
