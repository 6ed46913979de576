"""A trace: operations over strided windows of storages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Window:
    """A tensor as a strided window of a storage; shape, stride and offset in elements, as in torch."""

    storage: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """Elements of the window."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class TracedOp:
    """One operation: `function` called with `args` and `kwargs`, in which every tensor is a Window.

    name: "aten.add.Tensor" and the like; module_path: of the module that performed it.
    """

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Window | None, ...]
    module_path: str


@dataclass(frozen=True, eq=False)
class Question:
    """A value that the module's code asked for while it was traced, such as int(grid.max()), and the answer it got.

    step: that computes it; before: the steps that its arguments come from, of the call's inputs and of constants.
    """

    step: TracedOp
    before: tuple[TracedOp, ...]
    inputs: dict[str, Window]
    constants: dict[int, torch.Tensor]
    answer: Any


@dataclass(frozen=True)
class Trace:
    """All operations of one call, in order, without those that only make views: windows have these.

    inputs, weights: by name; constants: real tensors of the module, by storage; storages: elements of each.
    questions: it holds for calls whose inputs give these answers.
    """

    model: str
    steps: tuple[TracedOp, ...]
    inputs: dict[str, Window]
    weights: dict[str, Window]
    constants: dict[int, torch.Tensor]
    outputs: tuple[Window, ...]
    storages: tuple[int, ...]
    questions: tuple[Question, ...] = ()


def windows_in(value: Any) -> Iterator[Window]:
    """Every window in nested arguments, in order."""
    if isinstance(value, Window):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from windows_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from windows_in(item)
