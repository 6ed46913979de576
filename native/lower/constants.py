"""Constants of a trace: made when they are asked for, since those of a video's positions take hundreds of MB."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch

from ..trace.graph import Trace, TracedOp, Window, windows_in
from ..trace.values import HostStorages
from .strides import is_contiguous

_LARGE_TABLE = 1 << 22  # numbers
_KEPT_BYTES = 1 << 20  # a storage up to this size is not made twice


class Constants(HostStorages):
    """Storages whose values follow from shapes alone."""

    def __init__(self, trace: Trace, values: bool = True) -> None:
        """values: without them large tables of whole numbers are zeros that take no memory."""
        super().__init__()
        self._values = values
        self.flat |= trace.constants
        self._sizes = trace.storages
        self._makers: dict[int, TracedOp] = {}  # of storages that can be made again, in the order of the trace
        self._made: list[int] = []  # those that were made since `forget`
        writes = Counter(trace.constants.keys())
        for step in trace.steps:
            writes.update(_written(step))
        self._stable = {storage for storage, times in writes.items() if times == 1}

    def __contains__(self, storage: int) -> bool:
        return storage in self.flat or storage in self._makers

    def run(self, step: TracedOp) -> None:
        """Note a step, to perform it when a result is asked for; at once where storages are written into later."""
        if not self._values and all(out is None or is_large_table(out) for out in step.outputs):
            for out in step.outputs:
                if out is not None:
                    self.fill(out.storage, self._sizes[out.storage] if out.storage >= 0 else out.numel, 0, out.dtype)
            return
        touched = [window.storage for window in windows_in((step.args, step.kwargs, step.outputs))]
        if any(storage >= 0 and storage not in self._stable for storage in touched):
            super().run(step)
            return
        self._makers |= {out.storage: step for out in step.outputs if out is not None}

    def window(self, window: Window) -> torch.Tensor:
        """A window as a tensor, made now where it is not there."""
        window = self._of_stacked(window)
        if window.numel and window.storage not in self.flat:
            self._make(window.storage)
        return super().window(window)

    def forget(self) -> None:
        """Drop what is large and can be made again."""
        for storage in self._made:
            self._drop(storage)
        self._made.clear()

    def _drop(self, storage: int) -> None:
        if storage in self.flat and self.flat[storage].nbytes > _KEPT_BYTES:
            del self.flat[storage]

    def _make(self, storage: int) -> None:
        """Perform the steps that a storage comes from, each intermediate result as long as one of them needs it."""
        needed, found = {storage}, dict[int, TracedOp]()
        for made, step in reversed(self._makers.items()):
            if made in needed and made not in self.flat:
                found[id(step)] = step
                needed |= self._read(step)
        steps = list(reversed(found.values()))
        self._made += [out.storage for step in steps for out in step.outputs if out is not None]
        last = {each: number for number, step in enumerate(steps) for each in self._read(step)}
        for number, step in enumerate(steps):
            super().run(step)
            for each in self._read(step):
                if last[each] == number and each in self._makers:
                    self._drop(each)

    def _read(self, step: TracedOp) -> set[int]:
        return {self._of_stacked(window).storage for window in windows_in((step.args, step.kwargs)) if window.numel}

    def _of_stacked(self, window: Window) -> Window:
        """One of several tensors that are stacked, where a window shows that one alone: the stack need not be made."""
        step = self._makers.get(window.storage)
        if step is None or step.name != "aten.stack.default" or window.storage in self.flat:
            return window
        parts, (out,) = step.args[0], step.outputs
        count = len(parts)
        part = parts[window.offset % count]
        whole = out is not None and is_contiguous(out.shape, out.stride) and is_contiguous(part.shape, part.stride)
        last = step.args[1:] in ((-1,), (len(part.shape),))
        alone = all(n == 1 or stride % count == 0 for n, stride in zip(window.shape, window.stride, strict=True))
        if not (whole and last and alone and part.dtype == window.dtype):
            return window
        stride = tuple(stride // count for stride in window.stride)
        offset = part.offset + window.offset // count
        return self._of_stacked(replace(window, storage=part.storage, stride=stride, offset=offset))


def is_large_table(window: Window) -> bool:
    """Whether a window is of so many whole numbers, such as the distance of every token from every other."""
    whole = not window.dtype.is_floating_point and window.dtype != torch.bool and not window.dtype.is_complex
    return whole and window.numel > _LARGE_TABLE


def _written(step: TracedOp) -> list[int]:
    """The storages that a step makes, and those that it may write into."""
    mutable = getattr(getattr(step.function, "_schema", None), "is_mutable", False)
    return [window.storage for window in windows_in((step.outputs, (step.args, step.kwargs) if mutable else ()))]
