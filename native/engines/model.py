"""A torch module with the weights of a file, computed by an engine."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..placement import Placement, as_placement
from ..weights import WeightSet

Function = Callable[[torch.nn.Module, dict[str, torch.Tensor]], torch.Tensor | tuple[torch.Tensor, ...]]


@dataclass(frozen=True, eq=False)
class LowRank:
    """A low-rank branch beside a weight [out, in]: down [rank, in], up [out, rank] with the strength in it."""

    down: np.ndarray
    up: np.ndarray


class Model(ABC):
    """Runs functions of a module where `placement` says."""

    peaks: Mapping[str, int] = {}  # by device: the most bytes held during the last load or run, where that is known
    island_seconds: Mapping[str, float] = {}  # of the last run: operations that torch computed between programs

    def __init__(self, module: torch.nn.Module, weights: WeightSet, placement: Placement | str) -> None:
        """module: this model's own, on the meta device; nothing else may use it."""
        self.module = module
        self.file_weights = weights
        self.weights = weights
        self.placement = as_placement(placement)
        self._branches: Mapping[str, LowRank] = {}
        self._lock = threading.RLock()

    def set_branches(self, branches: Mapping[str, LowRank]) -> None:
        """Put low-rank branches beside weights, by parameter name; an empty mapping takes them all away."""
        with self._lock:
            self._branches = dict(branches)
            arrays = {}
            for name, branch in branches.items():
                arrays[f"{name}.lora_down"] = np.ascontiguousarray(branch.down, np.float32)
                arrays[f"{name}.lora_up"] = np.ascontiguousarray(branch.up, np.float32)
            self.weights = self.file_weights.with_arrays(arrays) if arrays else self.file_weights

    @abstractmethod
    def run(
        self,
        key: Hashable,
        function: Function,
        inputs: Mapping[str, torch.Tensor],
        interrupted: Callable[[], bool] | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Compute `function(module, inputs)`; returns F32 tensors on the CPU. `progress` gets the fraction done.

        key: every value that steers a branch in `function`. inputs: on any device; floats are computed in F32.
        Raises Interrupted once `interrupted()` is true, and RunnerError for a result that is not finite.
        """

    @abstractmethod
    def fits(self, key: Hashable, function: Function, inputs: Mapping[str, torch.Tensor]) -> bool:
        """Whether there is room for `run`, and each of its operations can be done; nothing is computed."""

    @abstractmethod
    def load(
        self, progress: Callable[[int, int], None] | None = None, interrupted: Callable[[], bool] | None = None
    ) -> None:
        """Bring the weights where they live; `progress` gets (bytes done, bytes in all). Raises Interrupted."""

    def release(self) -> None:  # noqa: B027  # an engine may hold nothing but weights
        """Free what only a run needs; the weights stay."""

    @abstractmethod
    def unload(self, digest: str | None = None) -> None:
        """Free what is held for this model, or for the weights of that digest, which it had before."""
