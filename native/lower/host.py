"""Runs steps of a trace with torch on the host: for constants once, for results of host inputs at every call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..trace.graph import TracedOp, Window


def is_host_input(window: Window) -> bool:
    """Whether an input stays on the host: timesteps, guidance, ids and masks, for which torch is exact and fast."""
    return len(window.shape) <= 1 or not window.dtype.is_floating_point


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

    def window(self, window: Window) -> torch.Tensor:
        """A window as a tensor, which shares the storage's memory."""
        if not window.numel:
            return torch.empty(window.shape, dtype=window.dtype)
        return self.flat[window.storage].as_strided(window.shape, window.stride, window.offset)

    def run(self, step: TracedOp) -> None:
        """Perform a step."""
        kwargs = {key: value for key, value in step.kwargs.items() if key not in ("device", "pin_memory")}
        args = with_windows(step.args, self.window)
        result = step.function(*args, **with_windows(kwargs, self.window))
        results = result if isinstance(result, (tuple, list)) else (result,)
        for tensor, window in zip(results, step.outputs, strict=False):
            if window is not None and window.storage not in self.flat:
                self.put(window.storage, tensor, window)


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A host tensor as an input or constant of a program: F32, or I32 for integers."""
    kind = torch.float32 if tensor.is_floating_point() or tensor.dtype == torch.bool else torch.int32
    return np.ascontiguousarray(tensor.detach().to(kind).numpy())


def as_constant(tensor: torch.Tensor) -> np.ndarray:
    """The same for a constant; one element in as many dimensions where all are alike, such as a video's padding."""
    array = as_array(tensor)
    first = array[(slice(1),) * array.ndim]
    return first if np.array_equal(array, np.broadcast_to(first, array.shape), equal_nan=True) else array


@dataclass
class HostPart:
    """The steps that depend on host inputs, and the windows of their results that are inputs of the program.

    items: in order, a step to run, or (input name, window) where the value of the window is taken.
    """

    inputs: dict[str, Window] = field(default_factory=dict)
    items: list[TracedOp | tuple[str, Window]] = field(default_factory=list)

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """The program's host inputs for a call, by name."""
        storages = HostStorages()
        for name, window in self.inputs.items():
            storages.put(window.storage, inputs[name].detach().to("cpu", window.dtype).clone(), window)
        arrays: dict[str, np.ndarray] = {}
        with torch.no_grad():
            for item in self.items:
                if isinstance(item, TracedOp):
                    storages.run(item)
                else:
                    arrays[item[0]] = as_array(storages.window(item[1]))
        return arrays
