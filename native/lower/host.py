"""A lowered program, and the host's part of each call: what depends on host inputs alone, computed with torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from ..program import Program
from ..program.builder import LowerError
from ..trace.graph import Question, TracedOp, Window
from ..trace.values import HostStorages

HOST_FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {}


def on_host(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Give a function of the host's part a name, by which the program of a call can be kept for another session."""
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    assert name not in HOST_FUNCTIONS, name
    HOST_FUNCTIONS[name] = function
    return function


def is_host_input(window: Window) -> bool:
    """Whether an input stays on the host: timesteps, guidance, ids and masks, for which torch is exact and fast."""
    return len(window.shape) <= 1 or not window.dtype.is_floating_point


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A host tensor as an input or constant of a program: F32, or I32 for integers.

    Raises LowerError for complex numbers.
    """
    if tensor.is_complex():
        raise LowerError("complex numbers")
    kind = torch.float32 if tensor.is_floating_point() or tensor.dtype == torch.bool else torch.int32
    return np.ascontiguousarray(tensor.detach().to(kind).numpy())


def as_constant(tensor: torch.Tensor) -> np.ndarray:
    """The same for a constant; one element in as many dimensions where all are alike, such as a video's padding."""
    array = as_array(tensor)
    first = array[(slice(1),) * array.ndim]
    if array.size and array.flat[-1] != first and not np.isnan(first).any():
        return array
    return first if np.array_equal(array, np.broadcast_to(first, array.shape), equal_nan=True) else array


@dataclass
class HostPart:
    """The steps that depend on host inputs, and the windows of their results that are inputs of the program.

    items: in order, a step to run, or (input name, window) where the value of the window is taken.
    """

    inputs: dict[str, Window] = field(default_factory=dict)
    items: list[TracedOp | tuple[str, Window]] = field(default_factory=list)

    def __call__(
        self, inputs: Mapping[str, torch.Tensor], storages: HostStorages | None = None
    ) -> dict[str, np.ndarray]:
        """The program's host inputs for a call, by name; storages: with what the programs before it have left."""
        storages = storages or HostStorages()
        for name, window in self.inputs.items():
            storages.put(window.storage, inputs[name].detach().to("cpu", window.dtype).clone(), window)
        arrays: dict[str, np.ndarray] = {}
        with torch.no_grad():
            for item in self.items:
                if isinstance(item, TracedOp):
                    storages.run(item)
                else:
                    arrays[item[0]] = as_array(storages.window(item[1]).to(item[1].dtype))
        return arrays


@dataclass(frozen=True, slots=True)
class Island:
    """An operation of the device's part that torch computes on the host, as no program can express it, and why."""

    operation: str
    module_path: str
    reason: str


@dataclass(frozen=True)
class Lowered:
    """A program, the host's part of each call, the program's device inputs by name, and each tensor's module path.

    questions: as Trace's. islands: what torch computes in the host's part in place of the device. rest: what follows on
    the program, where there are islands later on, and kept: the windows of storages that its outputs are then.
    """

    program: Program
    host: HostPart
    device_inputs: tuple[str, ...]
    module_paths: list[str] = field(default_factory=list)
    questions: tuple[Question, ...] = ()
    islands: tuple[Island, ...] = ()
    kept: tuple[Window, ...] = ()
    rest: Lowered | None = None

    @cached_property
    def parts(self) -> tuple[Lowered, ...]:
        """This program and all that follow on it."""
        return self, *(self.rest.parts if self.rest else ())

    def listing(self) -> str:
        """The programs as a person reads them, with the islands that come before each."""
        lines = []
        for part in self.parts:
            lines += [f"island {each.operation} in {each.module_path}: {each.reason}" for each in part.islands]
            lines.append(part.program.listing(part.module_paths))
        return "\n".join(lines)
