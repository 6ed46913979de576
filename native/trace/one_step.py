"""Functions that a trace has as one step, which torch computes on the host at every call: an island of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_unflatten

from .recorder import Recorder

_recording: ContextVar[tuple[Recorder, Callable[[], Any]] | None] = ContextVar("recording", default=None)
_asking: ContextVar[bool] = ContextVar("asking", default=False)


def is_asked_for_shapes() -> bool:
    """Whether a function is called for the shapes of its results alone, with tensors of a trace."""
    return _asking.get()


@contextmanager
def recording(recorder: Recorder, paused: Callable[[], Any]) -> Iterator[None]:
    """Within it `as_one_step` adds to a recorder; paused: makes a context in which operations pass unrecorded."""
    before = _recording.set((recorder, paused))
    try:
        yield
    finally:
        _recording.reset(before)


def as_one_step(name: str, function: Callable[..., Any], arguments: Any) -> Any:
    """The result of `function(*arguments)`, which the trace that is being made has as one step.

    arguments: anything nested with tensors in it. The function gets copies of them, and never a tensor of the trace
    but to find out the shapes of its results, for which it is called once with zeros where it asks for values. What it
    writes into its arguments is written in the trace.
    Raises RuntimeError outside a trace.
    """
    found = _recording.get()
    if found is None:
        raise RuntimeError(f"{name} is called outside a trace")
    recorder, paused = found
    flat, nesting = tree_flatten(arguments)
    places = [place for place, item in enumerate(flat) if isinstance(item, torch.Tensor)]
    results: list[tuple[list[Any], Any]] = []
    written: list[int] = []  # of the places

    def call(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        items = list(flat)
        for place, tensor in zip(places, tensors, strict=True):
            items[place] = tensor.clone()
        copies = [items[place] for place in places]
        versions = [copy._version for copy in copies] if not results else []
        made, spec = tree_flatten(function(*tree_unflatten(items, nesting)))
        if not results:
            written[:] = [number for number, copy in enumerate(copies) if copy._version != versions[number]]
        results[:] = [([None if isinstance(x, torch.Tensor) else x for x in made], spec)]
        return tuple(x.clone() for x in (*made, *(copies[each] for each in written)) if isinstance(x, torch.Tensor))

    given = [flat[place] for place in places]
    with paused(), torch.inference_mode(False), torch.no_grad():  # in inference mode no tensor notes writes
        before = _asking.set(True)
        try:
            tensors = call(*given)
        except (DataDependentOutputException, DynamicOutputShapeException):
            with _disable_current_modes(), torch.random.fork_rng(devices=[]):  # random numbers stay those of the steps
                zeros = [torch.zeros(tuple(x.shape), dtype=x.dtype) for x in given]
                real = call(*zeros)
            tensors = tuple(torch.empty(tuple(x.shape), dtype=x.dtype) for x in real)
        finally:
            _asking.reset(before)
    recorder.add(name, call, given, {}, tensors)
    items, spec = results[0]
    for number, tensor in zip(written, tensors[len(tensors) - len(written) :], strict=True):
        given[number].copy_(tensor)
    left = iter(tensors)
    return tree_unflatten([next(left) if item is None else item for item in items], spec)
