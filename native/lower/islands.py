"""Islands: steps that no program can express, which torch computes on the host between two programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..program import Output
from ..trace.graph import TracedOp, Window, windows_in
from .host import Island, Lowered, is_host_input
from .lowering import Lowering, Stage
from .passes.chunk_tokens import in_chunks
from .passes.repeated_rows import repeated_rows
from .passes.split_columns import split_columns
from .strides import contiguous


def part(low: Lowering, windows: Sequence[Window]) -> Lowered:
    """The program of the steps so far, whose outputs these windows are."""
    tensors = []
    for window in windows:
        tensor = contiguous(low.b, low.operand(window))
        if low.b[tensor].kind != "op" or low.b[tensor].type != "F32":
            tensor = low.b.op("scale", tensor, factor=1.0)
        tensors.append(tensor)
    tensors = repeated_rows(low.b, tensors)
    tensors = split_columns(low.b, tensors, low.options.chunk_threshold_bytes)
    tensors = in_chunks(low.b, tensors, low.options.chunk_threshold_bytes, low.options.chunk_tokens)
    outputs = [Output(tensor, window.shape) for tensor, window in zip(tensors, windows, strict=True)]
    program, module_paths = low.b.program(outputs)
    names = {tensor.name for tensor in program.tensors if tensor.kind == "input"}
    low.host.items = [item for item in low.host.items if isinstance(item, TracedOp) or item[0] in names]
    device = tuple(name for name in low.trace.inputs if name in names)
    return Lowered(program, low.host, device, module_paths, islands=tuple(low.islands))


def island(low: Lowering, step: TracedOp, later: Sequence[TracedOp], reason: str) -> None:
    """Have torch compute a step on the host, between the program of the steps so far and that of the later ones."""
    now = _on_the_device(low, (step.args, step.kwargs))
    then = _on_the_device(low, [(each.args, each.kwargs) for each in later], low.trace.outputs)
    weights = {storage for storage in {**now, **then} if _is_leaf(low, storage, "weight")}
    of_call = {window.storage: name for name, window in low.trace.inputs.items()}
    held = of_call.keys() | low.carried  # by the host; another storage may have the same content, such as a copy
    known = {storage for storage in {**now, **then} if _is_leaf(low, storage, "input")} & held
    kept = [w for storage, w in {**then, **now}.items() if storage not in known | (weights - now.keys())]
    if kept:
        low.parts.append(replace(part(low, kept), kept=tuple(kept)))
        low.begin_part()
    low.host.inputs |= {of_call[s]: low.trace.inputs[of_call[s]] for s in known & now.keys() & of_call.keys()}
    low.islands.append(Island(step.name, step.module_path, reason))
    low.host_step(step, Stage.HOST)
    written = {out.storage: _whole(low, out) for out in step.outputs if out is not None and not is_host_input(out)}
    for storage, window in {**then, **written}.items():
        if storage in written or (storage not in low.bound and storage not in weights):
            if storage in known & of_call.keys() - written.keys():
                low.bind_leaf(of_call[storage], storage)
            else:
                _carry(low, window)


def _on_the_device(low: Lowering, *values: Any) -> dict[int, Window]:
    """The storages that values read and the device computes, each as one window."""
    read = {window.storage: window for window in windows_in(values) if window.numel}
    return {storage: _whole(low, w) for storage, w in read.items() if low.stage.get(storage) == Stage.DEVICE}


def _whole(low: Lowering, window: Window) -> Window:
    return Window(window.storage, (low.trace.storages[window.storage],), (1,), 0, window.dtype)


def _is_leaf(low: Lowering, storage: int, kind: str) -> bool:
    """Whether the content of a storage is a weight or an input as it came."""
    content = low.bound.get(storage)
    if content is None:
        return kind == "weight" and storage in low.weight_names
    return low.b[content.tensor].kind == kind and content.storage_stride == content.stride


def _carry(low: Lowering, window: Window) -> None:
    """Make what the host holds of a storage an input of the program, and that the storage's content."""
    name = f"carry.{len(low.host.items)}"
    low.host.items.append((name, replace(window, dtype=torch.float32)))  # as a program has whole numbers too
    low.bind_leaf(name, window.storage)
    low.carried.add(window.storage)
    low.stage[window.storage] = Stage.DEVICE
    low.version[window.storage] = low.version.get(window.storage, 0) + 1
