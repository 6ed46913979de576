"""A torch module with the weights of a file, computed by an engine."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from ..lower import Branch
from ..placement import Placement, as_placement
from ..weights import Array, WeightSet
from ..weights.weight_set import ARRAY_TYPES
from ..wire.turn import NO_TURN, Turn

JOINED = "joined"  # the name of other models' modules, in the module that they are joined to
Function = Callable[[torch.nn.Module, dict[str, torch.Tensor]], torch.Tensor | tuple[torch.Tensor, ...]]


@dataclass(frozen=True, eq=False)
class LowRank:
    """A low-rank branch beside rows and columns of a weight: down [rank, columns], up [rows, rank].

    Both are of one type, float32 or float16, and the strength is in them. row, column: of the weight, the first one.
    """

    down: np.ndarray
    up: np.ndarray
    row: int = 0
    column: int = 0

    @property
    def branch(self) -> Branch:
        """The shapes that a program hangs on."""
        (rank, columns), rows = self.down.shape, self.up.shape[0]
        return Branch(ARRAY_TYPES[str(self.down.dtype)], rank, self.row, rows, self.column, columns)


@dataclass(frozen=True, eq=False)
class Patches:
    """Changes of a model, by parameter name: branches beside weights, and arrays in the place of weights.

    An array may have another shape than the weight, as an input layer has that takes more channels.
    """

    branches: Mapping[str, Sequence[LowRank]] = field(default_factory=dict)
    weights: Mapping[str, Array] = field(default_factory=dict)


class Model(ABC):
    """Runs functions of a module where `placement` says."""

    peaks: Mapping[str, int] = {}  # by device: the most bytes held during the last load or run, where that is known
    island_seconds: Mapping[str, float] = {}  # of the last run: operations that torch computed between programs

    def __init__(self, module: torch.nn.Module, weights: WeightSet, placement: Placement | str) -> None:
        """module: this model's own, on the meta device; nothing else may use it."""
        self.module = module
        self._own_weights = weights
        self.file_weights = weights  # with those of the models that are joined
        self.weights = weights  # with patches
        self.placement = as_placement(placement)
        self._branches: Mapping[str, tuple[Branch, ...]] = {}
        self._arrays: Mapping[str, Array] = {}
        self._reshaped: Mapping[str, tuple[int, ...]] = {}
        self._joined: Sequence[Model] = ()
        self._lock = threading.RLock()

    def set_patches(self, patches: Patches) -> None:
        """Change the model so, instead of as before."""
        with self._lock:
            self._branches = {name: tuple(each.branch for each in found) for name, found in patches.branches.items()}
            arrays = dict(patches.weights)
            for name, found in patches.branches.items():
                for number, (each, branch) in enumerate(zip(found, self._branches[name], strict=True)):
                    arrays |= dict(zip(branch.names(name, number), (each.down, each.up), strict=True))
            self._arrays = arrays
            self._patch()
            self._reshape({name: array.shape for name, array in patches.weights.items()})

    def _patch(self) -> None:
        self.weights = self.file_weights.with_arrays(self._arrays) if self._arrays else self.file_weights

    @property
    def can_join(self) -> bool:
        """Whether functions can use other models' modules as parts of this one."""
        return False

    def join(self, others: Sequence[Model]) -> None:
        """Have functions use the modules of other models, with their weights, and of no others joined before."""
        with self._lock:
            if [each.weights.digest for each in others] == [each.weights.digest for each in self._joined]:
                return
            self._joined = tuple(others)
            self.module.add_module(JOINED, torch.nn.ModuleList(each.module for each in others))
            named = {f"{JOINED}.{number}.": each.weights for number, each in enumerate(others)}
            self.file_weights = self._own_weights.joined(named)
            self.__dict__.pop("identity", None)
            self._patch()

    @property
    def has_branches(self) -> bool:
        """Whether there is a branch beside a weight."""
        return bool(self._branches)

    @cached_property
    def identity(self) -> Hashable:
        """The name and the parameters: models that have these alike have the same traces."""
        shapes = self.file_weights.shapes()
        return self.file_weights.name, frozenset((name, shape) for name, (shape, _) in shapes.items())

    @property
    def _patched(self) -> tuple[Hashable, ...]:
        """The part of the keys of traces and programs that patches are."""
        joined = tuple(each.weights.digest for each in self._joined)
        return tuple(self._branches.items()), tuple(self._reshaped.items()), joined

    def _reshape(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Give parameters of the module these shapes, and all others those of the file."""
        held = self.file_weights.shapes()
        changed = {name: shape for name, shape in sorted(shapes.items()) if shape != held[name][0]}
        for name in self._reshaped.keys() | changed.keys():
            path, _, last = name.rpartition(".")
            shaped = torch.empty(changed.get(name, held[name][0]), device="meta")
            setattr(self.module.get_submodule(path), last, torch.nn.Parameter(shaped, requires_grad=False))
        self._reshaped = changed

    @abstractmethod
    def run(
        self,
        key: Hashable,
        function: Function,
        inputs: Mapping[str, torch.Tensor],
        interrupted: Callable[[], bool] | None = None,
        progress: Callable[[float], None] | None = None,
        turn: Turn = NO_TURN,
    ) -> tuple[torch.Tensor, ...]:
        """Compute `function(module, inputs)`; returns F32 tensors on the CPU. `progress` gets the fraction done.

        key: every value that steers a branch in `function`. inputs: on any device; floats are computed in F32. turn: of
        a series of runs, of which an engine may keep on its device what `function` writes into inputs (index_copy_):
        they hold the same at the next turn.
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
