"""Values of storages on the host: runs steps of a trace with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..quota import check_quota
from .graph import TracedOp, Window

_LARGE = 1 << 20  # bytes of a result beside which those before it count
_FILLS = {"zeros": 0, "ones": 1, "empty": 0}  # torch leaves an empty one as it is; operations by the name of a step
_KEEP = {"index", "index_select", "clone", "_to_copy", "repeat"}  # they take elements of their first argument


def with_windows(value: Any, replace: Callable[[Window], Any]) -> Any:
    """Nested arguments with every window replaced."""
    if isinstance(value, Window):
        return replace(value)
    if isinstance(value, (tuple, list)):
        return type(value)(with_windows(item, replace) for item in value)
    if isinstance(value, dict):
        return {key: with_windows(item, replace) for key, item in value.items()}
    return value


class HostStorages:
    """Storages with values on the host; a window of one is a view, so that in-place operations write into it."""

    def __init__(self) -> None:
        self.flat: dict[int, torch.Tensor] = {}

    def put(self, storage: int, tensor: torch.Tensor, window: Window) -> None:
        """Make a tensor the content of a storage; window: of the tensor in that storage."""
        if tuple(tensor.stride()) != window.stride:
            own = torch.empty_strided(window.shape, window.stride, dtype=tensor.dtype)
            tensor = own.copy_(tensor)
        self.flat[storage] = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)

    def fill(self, storage: int, size: int, value: float, dtype: torch.dtype) -> None:
        """Make a number the content of a storage, which takes memory only once a window of it is asked for."""
        self.flat[storage] = torch.full((1,), value, dtype=dtype).expand(size)

    def window(self, window: Window) -> torch.Tensor:
        """A window as a tensor, which shares the storage's memory."""
        if not window.numel:
            return torch.empty(window.shape, dtype=window.dtype)
        flat = self.flat[window.storage]
        if flat.stride() == (0,):
            check_quota(flat.numel() * flat.element_size())
            flat = self.flat[window.storage] = flat.clone()
        if flat.is_complex() and not window.dtype.is_complex:  # of view_as_real
            flat = torch.view_as_real(flat)
        return flat.as_strided(window.shape, window.stride, window.offset)

    def filled(self, storage: int) -> bool:
        """Whether the content of a storage is one number, which takes no memory."""
        flat = self.flat.get(storage)
        return flat is not None and flat.stride() == (0,)

    def compact(self, window: Window) -> torch.Tensor:
        """The same to be read; one element in as many dimensions where the storage was filled with a number."""
        if not window.numel or not self.filled(window.storage):
            return self.window(window)
        return self.flat[window.storage][:1].reshape((1,) * len(window.shape))

    def call(self, step: TracedOp) -> Any:
        """The result of a step's function."""
        kwargs = {key: value for key, value in step.kwargs.items() if key not in ("device", "pin_memory")}
        return step.function(*with_windows(step.args, self.window), **with_windows(kwargs, self.window))

    def run(self, step: TracedOp) -> None:
        """Perform a step, and keep its results."""
        made = {window.storage: window.numel * window.dtype.itemsize for window in step.outputs if window is not None}
        nbytes = sum(made.values())
        value = self._filled_with(step) if nbytes > _LARGE and not made.keys() & self.flat.keys() else None
        if value is not None:
            (out,) = filter(None, step.outputs)
            self.fill(out.storage, out.numel, value, out.dtype)
            return
        check_quota(nbytes + (self._held() if nbytes > _LARGE else 0))
        result = self.call(step)
        results = result if isinstance(result, (tuple, list)) else (result,)
        for tensor, window in zip(results, step.outputs, strict=False):
            if window is not None and window.storage not in self.flat:
                self.put(window.storage, tensor, window)

    def _filled_with(self, step: TracedOp) -> float | None:
        """The number that all elements of a step's only result are, where that is known without performing it."""
        name = step.name.split(".")[1] if "." in step.name else step.name
        if name.removeprefix("new_").removesuffix("_like") == "full":
            value = step.args[2 if name == "new_full" else 1]
            return value if isinstance(value, (int, float)) else None
        first = step.args[0] if step.args else None
        if name in _KEEP and isinstance(first, Window) and not first.dtype.is_complex and self.filled(first.storage):
            return float(self.compact(first))
        return _FILLS.get(name.removeprefix("new_").removesuffix("_like"))

    def _held(self) -> int:
        return sum(flat.nbytes for flat in self.flat.values() if flat.stride() != (0,))
