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
from ...native.trace import OfPart
from .attention_override import attach
from .fingerprint import fingerprint
from .loaded_code import Uncertain

log = logging.getLogger(__name__)
VARIABLE = "GGML_PROGRAMS"  # of the environment; 0: nothing is kept or read, else the folder
Function = Callable[[torch.nn.Module, dict[str, torch.Tensor]], Any]


def folder() -> Path:
    """Where programs are kept."""
    return Path(os.environ.get(VARIABLE) or Path(folder_paths.get_user_directory()) / "ggml_programs")


@cache
def _store(where: Path) -> Store:
    return Store(where)


def storable(
    model: Model, key: Hashable, function: Function, path: str = "",
    noted: Callable[[], Any] = lambda: None, recall: Callable[[Any], None] = lambda _: None,
) -> Function:  # fmt: skip
    """A function of a model's module whose programs are kept, as nothing but that and the key steers what it does.

    key, path: as for Model.run and OfPart. noted, recall: as Storable's.
    """
    if os.environ.get(VARIABLE) == "0":
        return OfPart(path, function) if path else function

    def described() -> str | None:
        attach()
        try:
            return fingerprint(model.module, model.file_weights.shapes(), key, path)
        except Uncertain as reason:
            log.debug("a program is not kept for the next session: %s", reason)
            return None

    return Storable(path, function, _store(folder()), described, noted, recall)


def known_reads(kind: type, method: str) -> list[str]:
    """Names of options that a method of this class read in an earlier session; with too many a key only says more."""
    found = _store(folder()).get(_of_reads(kind, method)) if os.environ.get(VARIABLE) != "0" else None
    return [] if found is None else [name for name in found.decode(errors="replace").split("\n") if name]


def keep_reads(kind: type, method: str, names: Iterable[str]) -> None:
    """Keep these names for the next session."""
    if os.environ.get(VARIABLE) != "0":
        _store(folder()).put(_of_reads(kind, method), "\n".join(sorted(names)).encode())


def _of_reads(kind: type, method: str) -> str:
    return f"options read by {kind.__module__}.{kind.__qualname__}.{method}"


def nesting_as_values(nesting: TreeSpec) -> Any:
    """How results are nested, as lists, tuples and dictionaries of numbers."""
    return tree_unflatten(list(range(nesting.num_leaves)), nesting)


def nesting_of(values: Any) -> TreeSpec:
    """The nesting that `nesting_as_values` made these values of."""
    return tree_flatten(values)[1]
