"""Which calls of components have their programs kept on disk between sessions, and where."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import folder_paths
import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ...native.engines.model import Model
from ...native.stored import Storable, Store
from ...native.trace import OfPart, has_left_trace, weights_in
from .attention_override import attach
from .fingerprint import code_digest
from .foreign_functions import is_traced
from .run_code import digest_of, found_by, is_found_again
from .run_watch import Run, is_cheap, is_watched, noted

log = logging.getLogger(__name__)
VARIABLE = "GGML_PROGRAMS"  # of the environment: the folder; with 0 nothing is kept or read
Function = Callable[[torch.nn.Module, dict[str, torch.Tensor]], Any]


def folder() -> Path:
    """Where programs are kept."""
    return Path(os.environ.get(VARIABLE) or Path(folder_paths.get_user_directory()) / "ggml_programs")


def is_on() -> bool:
    """Whether programs are kept: where that was asked for, or where it does not make the first trace slower."""
    said = os.environ.get(VARIABLE)
    return said != "0" if said else is_cheap()


@cache
def _store(where: Path) -> Store:
    return Store(where)


class _Steering:
    """All that steers the trace of a function of a model's module: the module, a key, and the code that runs."""

    def __init__(
        self, model: Model, key: Hashable, function: Any, path: str, left: Callable[[], Any],
        recall: Callable[[Any], bool],
    ) -> None:  # fmt: skip
        self._model = model
        self._given = model.module, key, path, code_digest(function.__code__)
        self._left, self._recall = left, recall
        self._run: Run | None = None  # None: no trace was made

    def before(self) -> str | None:
        """As Steering."""
        attach()
        try:
            return digest_of(self._given, self._weights)
        except Exception as reason:  # Uncertain, or an object that cannot be looked at
            _note(reason)
            return None

    def watched(self, function: Callable[..., Any], module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
        """As Steering."""
        self._run = None
        if not is_traced(inputs) or is_watched():
            return function(module, inputs)
        run = Run()
        with noted(run) as is_noted:
            result = function(module, inputs)
        if is_noted and not has_left_trace():
            self._run = run
        return result

    def after(self) -> Any:
        """As Steering."""
        if self._run is None:
            return None
        try:
            return found_by(self._run, self._given, self._weights), self._left()
        except Exception as reason:
            _note(reason)
            return None

    def recall(self, after: Any) -> bool:
        """As Steering."""
        found, left = after
        try:
            return is_found_again(found, self._given, self._weights) and self._recall(left)
        except Exception as reason:
            _note(reason)
            return False

    @property
    def _weights(self) -> set[int]:
        """The module's tensors whose values do not count for a trace, by id."""
        held = self._model.file_weights.shapes()
        return {id(tensor) for tensor in weights_in(self._model.module, "", held).values()}


def _note(reason: Exception) -> None:
    log.debug("a program is not kept for the next session, and none of an earlier one is taken: %s", reason)


def storable(
    model: Model, key: Hashable, function: Function, path: str = "",
    left: Callable[[], Any] = lambda: None, recall: Callable[[Any], bool] = lambda _: True,
) -> Function:  # fmt: skip
    """A function of a model's module whose programs are kept, as nothing but that and the key steers what it does.

    key, path: as for Model.run and OfPart. left: what tracing has left besides the trace; recall: puts that in its
    place again, unless it is of another call than this one.
    """
    if not is_on():
        return OfPart(path, function) if path else function
    return Storable(path, function, _store(folder()), _Steering(model, key, function, path, left, recall))


def known_reads(kind: type, method: str) -> list[str]:
    """Names of options that a method of this class read in an earlier session; with too many a key only says more."""
    found = _store(folder()).get(_of_reads(kind, method)) if is_on() else None
    return [] if found is None else [name for name in found.decode(errors="replace").split("\n") if name]


def keep_reads(kind: type, method: str, names: Iterable[str]) -> None:
    """Keep these names for the next session."""
    _store(folder()).put(_of_reads(kind, method), "\n".join(sorted(names)).encode())


def _of_reads(kind: type, method: str) -> str:
    return f"options read by {kind.__module__}.{kind.__qualname__}.{method}"


def nesting_as_values(nesting: TreeSpec) -> Any:
    """How results are nested, as lists, tuples and dictionaries of numbers."""
    return tree_unflatten(list(range(nesting.num_leaves)), nesting)


def nesting_of(values: Any) -> TreeSpec:
    """The nesting that `nesting_as_values` made these values of."""
    return tree_flatten(values)[1]
