"""Where a window's values come from: the steps of a trace that wrote them."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

import torch

from .graph import TracedOp, Window, windows_in


class Steps(list[TracedOp]):
    """The steps of a trace in order, to which one after the other is appended, and which wrote into each storage."""

    def __init__(self) -> None:
        super().__init__()
        self._writers: dict[int, list[int]] = {}

    def append(self, step: TracedOp) -> None:
        """As a list's."""
        for storage in {out.storage for out in step.outputs if out is not None}:
            self._writers.setdefault(storage, []).append(len(self))
        super().append(step)

    def writer(self, storage: int, before: int | None = None) -> int | None:
        """The number of the last step, among those before one, that wrote into a storage."""
        numbers = self._writers.get(storage, [])
        known = len(numbers) if before is None else bisect_left(numbers, before)
        return numbers[known - 1] if known else None

    def writers(self, storage: int, before: int) -> list[int]:
        """The numbers of all steps, among those before one, that wrote into a storage."""
        numbers = self._writers.get(storage, [])
        return numbers[: bisect_left(numbers, before)]


def maker(steps: Steps, window: Window, before: int | None = None) -> TracedOp | None:
    """The step that computed a window, behind copies of it."""
    number = steps.writer(window.storage, before)
    if number is None:
        return None
    step = steps[number]
    (out, *_) = step.outputs
    if step.name == "aten.clone.default" and out is not None and step.args[0].shape == out.shape:
        return maker(steps, step.args[0], number)
    return step


def same(steps: Steps, then: Any, now: Any, before: int) -> bool:
    """Whether two arguments have the same value: one before a step, the other now."""
    if not isinstance(then, Window) or not isinstance(now, Window):
        return type(then) is type(now) and bool(then == now)
    first, second = steps.writer(then.storage, before), steps.writer(now.storage)
    if then.storage == now.storage:
        return then == now and first == second
    if first is None or second is None:
        return False
    a, b = steps[first], steps[second]
    if (a.name, a.args, a.kwargs) != (b.name, b.args, b.kwargs) or a.outputs != (then,) or b.outputs != (now,):
        return False
    read = {window.storage for window in windows_in((a.args, a.kwargs))}
    written = {out.storage for step in steps[first : second + 1] for out in step.outputs if out is not None}
    return not read & written and torch.Tag.nondeterministic_seeded not in getattr(a.function, "tags", ())


def above(steps: Steps, window: Window) -> int | None:
    """A number that all values of a window are below: of places along a dimension, its size."""
    step = maker(steps, window)
    if step is None or not _is(step, "topk", "sort", "argsort", "argmax", "argmin"):
        return None
    (source,) = windows_in(step.args)
    dim = _argument(step, "dim")
    places = step.outputs[-1]
    if places is None or places.storage != window.storage:
        return None
    return source.shape[dim] if isinstance(dim, int) else source.numel


def places_divided(steps: Steps, window: Window) -> tuple[Window, int] | None:
    """The places of sorted elements, [elements], and the number that a window is these divided by; or None."""
    step = maker(steps, window)
    if step is None or not _is(step, "floor_divide") or not isinstance(step.args[1], int):
        return None
    places: Window = step.args[0]
    order = maker(steps, places)
    if order is None or not _is(order, "sort", "argsort") or order.outputs[-1] != places or len(places.shape) != 1:
        return None
    return places, step.args[1]


def _is(step: TracedOp, *names: str) -> bool:
    return step.name.startswith("aten.") and step.name.split(".")[1] in names


def _argument(step: TracedOp, name: str) -> Any:
    """An argument of a step by name, given or not."""
    schema: Any = getattr(step.function, "_schema", None)
    for number, argument in enumerate(schema.arguments if schema else ()):
        if argument.name == name:
            return step.args[number] if number < len(step.args) else step.kwargs.get(name, argument.default_value)
    return None
