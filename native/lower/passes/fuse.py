"""Replaces patterns of several operations in a trace by the one operation that computes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from ...trace.graph import Trace, TracedOp, Window


def fuse(trace: Trace) -> Trace:
    """The trace with patterns replaced; steps that nothing uses any more are dropped when the program is built."""
    makers = {out.storage: step for step in trace.steps for out in step.outputs if out is not None}
    written = _written_twice(trace)
    steps = []
    for step in trace.steps:
        for pattern in PATTERNS:
            found = pattern(step, lambda value: _maker(value, makers, written))
            if found is not None:
                step = found
                break
        steps.append(step)
    return replace(trace, steps=tuple(steps))


Maker = Callable[[object], TracedOp | None]


def _written_twice(trace: Trace) -> set[int]:
    seen: set[int] = set()
    twice: set[int] = set()
    for step in trace.steps:
        for out in step.outputs:
            if out is not None:
                (twice if out.storage in seen else seen).add(out.storage)
    return twice


def _maker(value: object, makers: dict[int, TracedOp], written: set[int]) -> TracedOp | None:
    """The step whose only output is this window, if its storage is never written again."""
    if not isinstance(value, Window) or value.storage in written:
        return None
    step = makers.get(value.storage)
    return step if step is not None and step.outputs[0] == value else None


def rms_norm(step: TracedOp, maker: Maker) -> TracedOp | None:
    """x * rsqrt(mean(x ** 2, -1) + eps), as T5 and Llama write it (Zhang and Sennrich 2019, equation 4)."""
    if step.name != "aten.mul.Tensor":
        return None
    x, factor = step.args[:2]
    rsqrt = maker(factor)
    added = maker(rsqrt.args[0]) if rsqrt is not None and rsqrt.name == "aten.rsqrt.default" else None
    mean = maker(added.args[0]) if added is not None and added.name == "aten.add.Tensor" else None
    power = maker(mean.args[0]) if mean is not None and mean.name == "aten.mean.dim" else None
    if added is None or mean is None or power is None or power.name != "aten.pow.Tensor_Scalar":
        return None
    if not isinstance(x, Window) or power.args != (x, 2) or not isinstance(added.args[1], float):
        return None
    if tuple(mean.args[1]) not in ((-1,), (len(x.shape) - 1,)) or mean.args[2:3] != (True,):
        return None
    args = (x, [x.shape[-1]], None, added.args[1])
    return replace(step, name="rms_norm", function=torch.nn.functional.rms_norm, args=args, kwargs={})


PATTERNS = (rms_norm,)
