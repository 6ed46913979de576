"""Walks a trace: computes constants, leaves what depends on host inputs to the host, lowers the rest by handlers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ..program.builder import LowerError
from ..quota import check_quota
from ..trace.graph import Trace, TracedOp, windows_in
from ..trace.record import decompose
from .host import Lowered
from .islands import island, part
from .lowering import HANDLERS, Branch, Lowering, LowerOptions, Stage, WeightType
from .passes.fuse import fuse

_FILLS = {
    **dict.fromkeys(("zeros", "zeros_like", "new_zeros", "empty", "empty_like", "new_empty"), 0.0),
    **dict.fromkeys(("ones", "ones_like", "new_ones"), 1.0),
}
_RANDOM_LIKE = {"randn_like": torch.randn, "rand_like": torch.rand}


class HandlerBug(RuntimeError):
    """A handler failed in a way that it did not mean to; its cause is the original error."""


def lower(
    trace: Trace,
    weights: Mapping[str, WeightType],
    options: LowerOptions | None = None,
    branches: Mapping[str, Sequence[Branch]] | None = None,
) -> Lowered:
    """Lower a trace to a program.

    weights: the types and shapes that the parameters have on the device; branches: beside parameters, by their names.
    Raises LowerError where an operation cannot be computed even by torch on the host, and HandlerBug where a handler
    fails, naming it, the model and the module.
    """
    return walk(Lowering(trace, weights, options or LowerOptions(), branches or {}))


def walk(low: Lowering) -> Lowered:
    """Lower every step and collect the outputs; raises LowerError and HandlerBug."""
    steps = fuse(low.trace).steps
    for number, step in enumerate(steps):
        check_quota()
        low.step = step
        low.b.module_path = step.module_path
        try:
            _step(low, step)
        except LowerError as error:
            try:
                if not low.options.islands:
                    raise
                island(low, step, steps[number + 1 :], str(error))
            except LowerError as last:
                where = _where(low)
                raise LowerError(f"{where} is not supported yet: {last}. Please report the model.") from error
        low.constants.forget()
    lowered = part(low, low.trace.outputs)
    for before in reversed(low.parts):
        lowered = replace(before, rest=lowered)
    return replace(lowered, questions=low.trace.questions)


def _step(low: Lowering, step: TracedOp) -> None:
    if {out.numel for out in step.outputs if out is not None} == {0}:
        return  # nothing to compute, and whoever reads it needs no more than its shape
    name = step.name.split(".")[1] if step.name.startswith("aten.") else step.name
    if name in _FILLS or name in ("full", "full_like", "new_full"):
        _fill(low, step, name)
        return
    read = [window.storage for window in windows_in((step.args, step.kwargs)) if window.numel]
    stage = max((low.stage.get(storage, Stage.CONSTANT) for storage in read), default=Stage.CONSTANT)
    if name in _RANDOM_LIKE and step.outputs[0] is not None:  # torch draws on the host, of the shape of a tensor
        like, stage = step.outputs[0], Stage.HOST
        step = replace(step, function=_RANDOM_LIKE[name], args=(like.shape,), kwargs={"dtype": like.dtype})
    elif torch.Tag.nondeterministic_seeded in getattr(step.function, "tags", ()):
        stage = max(stage, Stage.HOST)  # at every call
    if stage < Stage.DEVICE:
        low.host_step(step, stage)
        return
    if low.branches and not _multiplies(low, name, step):
        _check_unbranched(low, read)
    function = HANDLERS.get(name) or (HANDLERS.get(name[:-1]) if name.endswith("_") else None)
    if function is None:
        _decomposed(low, step)
        return
    try:
        result = function(low, step.outputs[0], *step.args, **step.kwargs)
        for out, made in zip(step.outputs, result if isinstance(result, tuple) else (result,), strict=False):
            assert out is not None
            low.bind(out, made)
    except LowerError:
        raise
    except Exception as error:
        raise HandlerBug(
            f"{_where(low)}: a bug in the handler of {name} ({function.__module__}.{function.__qualname__}): "
            f"{type(error).__name__}: {error}. Please report the model and this line."
        ) from error


def _multiplies(low: Lowering, name: str, step: TracedOp) -> bool:
    """Whether a step is a product with a whole weight, beside which branches are computed."""
    if name != "linear":
        return False
    return low.weight_name(step.args[1] if len(step.args) > 1 else step.kwargs["weight"]) is not None


def _check_unbranched(low: Lowering, read: Sequence[int]) -> None:
    """Raise ValueError where a weight with branches is read by what would not add them."""
    for name in low.branches:
        window = low.trace.weights.get(name)
        if window is not None and window.storage in read:
            raise ValueError(
                f"{_where(low)}: the LoRA on {name} cannot be computed beside this weight, which the model does not "
                "multiply by as a whole. Remove the LoRA, or load the model with ComfyUI's own loader."
            )


def _decomposed(low: Lowering, step: TracedOp) -> None:
    """Lower a step that has no handler by the steps of torch's own decomposition of it."""
    shapes = ", ".join(str(list(window.shape)) for window in windows_in(step.args)) or "no tensors"
    missing = f"no handler for the operation {step.name} on {shapes}"
    found = decompose(step, low.trace.storages)
    if found is None:
        raise LowerError(missing)
    steps, storages = found
    low.trace = replace(low.trace, storages=storages)
    try:
        for each in steps:
            _step(low, each)
    except LowerError as error:
        raise LowerError(f"{missing}, and in torch's decomposition of it {error}") from error


def _fill(low: Lowering, step: TracedOp, name: str) -> None:
    (window,) = windows_in(step.outputs)
    size, value = low.trace.storages[window.storage], _FILLS[name] if name in _FILLS else step.args[-1]
    low.constants.fill(window.storage, size, value, window.dtype)
    low.stage[window.storage] = Stage.CONSTANT


def _where(low: Lowering) -> str:
    assert low.step is not None
    module_path = f"{low.trace.model}, in {low.step.module_path}" if low.step.module_path else low.trace.model
    return f"{module_path} ({low.step.name})"
