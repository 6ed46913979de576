"""Handlers of normalisation layers, softmax, sums and means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...program.builder import LowerError
from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import Operand, contiguous, contiguous_stride, norm_rows


def _affine(low: Lowering, normed: int, weight: Window | None, bias: Window | None, shape: Sequence[int]) -> int:
    """Scale and shift a normed tensor by vectors of this shape, which repeats over it."""
    b = low.b
    for name, vector in (("mul", weight), ("add", bias)):
        if vector is not None:
            normed = b.op(name, normed, b.reshape(contiguous(b, low.operand(vector)), shape))
    return normed


@handler("native_layer_norm")
def layer_norm(
    low: Lowering, out: Window, x: Window, shape: Sequence[int], weight: Window | None, bias: Window | None, eps: float
) -> Operand:
    """Layer normalisation over the last dimensions (Ba, Kiros, Hinton 2016)."""
    source = norm_rows(low.b, low.operand(x), len(shape))
    normed = low.b.op("norm", source.tensor, eps=eps)
    return replace(source, tensor=_affine(low, normed, weight, bias, (math.prod(shape),)))


@handler("rms_norm")
def rms_norm(
    low: Lowering, out: Window, x: Window, shape: Sequence[int], weight: Window | None = None, eps: float | None = None
) -> Operand:
    """Root mean square normalisation over the last dimensions (Zhang and Sennrich 2019)."""
    source = norm_rows(low.b, low.operand(x), len(shape))
    eps = 1.1920929e-07 if eps is None else eps  # torch's default: finfo(float32).eps
    normed = low.b.op("rms_norm", source.tensor, eps=eps)
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


@handler("native_batch_norm")
def batch_norm(
    low: Lowering, out: Window, x: Window, weight: Window | None, bias: Window | None, mean: Window | None,
    variance: Window | None, training: bool, _momentum: float, eps: float,
) -> int | Operand:  # fmt: skip
    """Batch normalisation of [batch, channels, ..] (Ioffe and Szegedy 2015), by the running mean and variance.

    In training, as instance normalisation is computed, by those of x.
    """
    if training and mean is not None:
        raise LowerError("batch normalisation that learns its mean and variance")
    if training:
        return _norm_of_channels(low, x, weight, bias, eps)
    assert mean is not None
    assert variance is not None
    b, channels = low.b, x.shape[1]

    def vector(window: Window) -> int:
        return b.reshape(contiguous(b, low.operand(window)), (channels,))

    factor = b.op("sqrt", b.op("scale", vector(variance), factor=1.0, bias=eps))
    factor = b.op("div", b.constant(np.ones(channels, "f4")) if weight is None else vector(weight), factor)
    shift = b.op("mul", vector(mean), factor)
    shift = b.op("scale", shift, factor=-1.0) if bias is None else b.op("sub", vector(bias), shift)
    source = b.reshape(contiguous(b, low.operand(x)), (x.shape[0], channels, x.numel // (x.shape[0] * channels)))
    scaled = b.op("mul", source, b.reshape(factor, (channels, 1)))
    return low.to_layout(b.op("add", scaled, b.reshape(shift, (channels, 1))), out)


def _norm_of_channels(low: Lowering, x: Window, weight: Window | None, bias: Window | None, eps: float) -> Operand:
    """Each channel of [batch, channels, ..] normed by its own mean and variance."""
    order = (1, 0, *range(2, len(x.shape)))
    moved = low.operand(x).permuted(order)
    source = low.b.reshape(contiguous(low.b, moved), (x.shape[1], x.numel // x.shape[1]))
    normed = _affine(low, low.b.op("norm", source, eps=eps), weight, bias, (x.shape[1], 1))
    return Operand(normed, moved.shape, contiguous_stride(moved.shape)).permuted(order)


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
