"""Answers what a module's code asks for while it is traced, where that hangs on inputs and constants alone."""

from __future__ import annotations

import heapq
import sys
import traceback
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from .graph import Question, TracedOp, Window, windows_in
from .origin import Steps
from .values import HostStorages


class TraceError(RuntimeError):
    """A model whose code depends on values, which fake tensors do not have."""


def ask(
    step: TracedOp,
    steps: Steps,
    inputs: Mapping[str, Window],
    constants: Mapping[int, torch.Tensor],
    on_device: Collection[int],
    values: Mapping[str, torch.Tensor],
) -> Question | None:
    """The result of a step after `steps`, for these values of the inputs.

    on_device: storages without values, those of weights. None where the result hangs on one of them.
    """
    needed, before = needed_for(windows_in((step.args, step.kwargs)), steps, on_device)
    if not needed.isdisjoint(on_device):
        return None
    question = Question(
        step,
        tuple(steps[number] for number in sorted(before)),
        {name: window for name, window in inputs.items() if window.storage in needed},
        {storage: tensor for storage, tensor in constants.items() if storage in needed},
        None,
    )
    return replace(question, answer=_answer(question, values))


def needed_for(windows: Iterable[Window], steps: Steps, enough: Collection[int] = ()) -> tuple[set[int], set[int]]:
    """The storages that windows hang on after all steps, and the numbers of the steps that wrote them.

    enough: storages of which one is enough to know, so that others may be missing then.
    """
    needed: set[int] = set()
    before: set[int] = set()  # numbers of steps
    waiting: list[int] = []  # the same, negative, as a heap

    def need(storages: set[int], at: int) -> None:
        for storage in storages - needed:
            needed.add(storage)
            for number in steps.writers(storage, at):
                heapq.heappush(waiting, -number)

    need({window.storage for window in windows}, len(steps))
    while waiting and needed.isdisjoint(enough):
        number = -heapq.heappop(waiting)
        if number not in before:
            before.add(number)
            each = steps[number]
            need({window.storage for window in windows_in((each.args, each.kwargs, each.outputs))}, number)
    return needed, before


def hold(questions: Iterable[Question], values: Mapping[str, torch.Tensor]) -> bool:
    """Whether inputs of these values give the same answers."""
    return all(_same(_answer(question, values), question.answer) for question in questions)


def _answer(question: Question, values: Mapping[str, torch.Tensor]) -> Any:
    """A number, a tensor or a tuple of tensors."""
    storages = HostStorages()
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
        for storage, tensor in question.constants.items():
            storages.flat[storage] = tensor.clone()
        for name, window in question.inputs.items():
            storages.put(window.storage, values[name].detach().to("cpu", window.dtype).clone(), window)
        for step in question.before:
            storages.run(step)
        return storages.call(question.step)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


_OTHERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


def model_frame() -> FrameType:
    """The frame of the model's code that runs now."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OTHERS):
        frame = frame.f_back
    return frame


def model_code() -> str:
    """The file and line of the model's code that runs now."""
    frame = model_frame()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def code_of(error: BaseException) -> str:
    """The file and line of the model's code in which an error arose."""
    found = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith(_OTHERS)
    ]
    return found[-1] if found else "its end"
