"""A lowered program, and the host's part of each call: what depends on host inputs alone, computed with torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from ..program import Program
from ..trace.graph import Question, TracedOp, Window
from ..trace.values import HostStorages


def is_host_input(window: Window) -> bool:
    """Whether an input stays on the host: timesteps, guidance, ids and masks, for which torch is exact and fast."""
    return len(window.shape) <= 1 or not window.dtype.is_floating_point


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """A host tensor as an input or constant of a program: F32, or I32 for integers."""
    kind = torch.float32 if tensor.is_floating_point() or tensor.dtype == torch.bool else torch.int32
    return np.ascontiguousarray(tensor.detach().to(kind).numpy())


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


@dataclass(frozen=True)
class Lowered:
    """A program, the host's part of each call, the program's device inputs by name, and each tensor's module path.

    questions: as Trace's.
    """

    program: Program
    host: HostPart
    device_inputs: tuple[str, ...]
    module_paths: list[str] = field(default_factory=list)
    questions: tuple[Question, ...] = ()
