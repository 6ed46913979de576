"""Handlers of normalisation layers, softmax, sums and means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...program.builder import LowerError
from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import Operand, contiguous, norm_rows


def _affine(low: Lowering, normed: int, weight: Window | None, bias: Window | None, shape: Sequence[int]) -> int:
    """Scale and shift a normed tensor by vectors of this shape, which repeats over it."""
    b = low.b
    for name, vector in (("mul", weight), ("add", bias)):
        if vector is not None:
            normed = b.op(name, normed, b.reshape(contiguous(b, low.operand(vector)), shape))
    return normed


def _not_negative(eps: float) -> float:
    if eps < 0:
        raise LowerError(f"a norm with an eps of {eps}")
    return eps


@handler("native_layer_norm")
def layer_norm(
    low: Lowering, out: Window, x: Window, shape: Sequence[int], weight: Window | None, bias: Window | None, eps: float
) -> Operand:
    """Layer normalisation over the last dimensions (Ba, Kiros, Hinton 2016)."""
    source = norm_rows(low.b, low.operand(x), len(shape))
    normed = low.b.op("norm", source.tensor, eps=_not_negative(eps))
    return replace(source, tensor=_affine(low, normed, weight, bias, (math.prod(shape),)))


@handler("rms_norm")
def rms_norm(
    low: Lowering, out: Window, x: Window, shape: Sequence[int], weight: Window | None = None, eps: float | None = None
) -> Operand:
    """Root mean square normalisation over the last dimensions (Zhang and Sennrich 2019)."""
    source = norm_rows(low.b, low.operand(x), len(shape))
    eps = 1.1920929e-07 if eps is None else eps  # torch's default: finfo(float32).eps
    normed = low.b.op("rms_norm", source.tensor, eps=_not_negative(eps))
    return replace(source, tensor=_affine(low, normed, weight, None, (math.prod(shape),)))


@handler("native_group_norm")
def group_norm(
    low: Lowering, out: Window, x: Window, weight: Window | None, bias: Window | None, batch: int, channels: int,
    area: int, groups: int, eps: float,
) -> int:  # fmt: skip
    """Group normalisation of [batch, channels, ..] (Wu and He 2018)."""
    source = low.b.reshape(contiguous(low.b, low.operand(x)), (batch, channels, 1, area))
    normed = low.b.op("group_norm", source, groups=groups, eps=eps)
    return low.to_layout(_affine(low, normed, weight, bias, (channels, 1, 1)), out)


@handler("_softmax")
def softmax(low: Lowering, out: Window, x: Window, dim: int, *_: Any) -> int:
    """Softmax over the last dimension."""
    if dim % len(x.shape) != len(x.shape) - 1:
        raise LowerError(f"a softmax over dimension {dim} of {x.shape}")
    source = low.b.reshape(contiguous(low.b, low.operand(x)), (x.numel // x.shape[-1], x.shape[-1]))
    return low.to_layout(low.b.op("soft_max", source), out)


def _reduction(low: Lowering, name: str, out: Window, x: Window, dims: Sequence[int] | None) -> int:
    """Sum or mean over dimensions: they are made the last ones, and rows are reduced."""
    rank = len(x.shape)
    over = sorted(d % rank for d in dims) if dims else list(range(rank))
    order = [i for i in range(rank) if i not in over] + over
    length = math.prod(x.shape[i] for i in over)
    source = low.b.reshape(contiguous(low.b, low.operand(x).permuted(order)), (x.numel // length, length))
    return low.to_layout(low.b.op(name, source), out)


@handler("mean")
def mean(low: Lowering, out: Window, x: Window, dims: Sequence[int] | None = None, *_: Any, **__: Any) -> int:
    """The mean over dimensions."""
    return _reduction(low, "mean", out, x, dims)


@handler("sum")
def total(low: Lowering, out: Window, x: Window, dims: Sequence[int] | None = None, *_: Any, **__: Any) -> int:
    """The sum over dimensions."""
    return _reduction(low, "sum_rows", out, x, dims)
