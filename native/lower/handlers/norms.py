"""Handlers of normalisation layers and softmax."""

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
from .elementwise import add, mul
from .reductions import rows_back, rows_over


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


def _modulated(low: Lowering, out: Window, normed: Operand, scale: Window, shift: Window) -> int:
    """normed * (1 + scale) + shift."""
    x, factor, product = low.temporary(out.shape), low.temporary(scale.shape), low.temporary(out.shape)
    low.bind(x, normed)
    low.bind(factor, add(low, factor, scale, 1.0))
    low.bind(product, mul(low, product, x, factor))
    return add(low, out, product, shift)


@handler("comfy_kitchen.adaln.default")
def adaln(low: Lowering, out: Window, x: Window, scale: Window, shift: Window, eps: float = 1e-6) -> int:
    """Modulated layer normalisation (Peebles and Xie 2022; comfy_kitchen/backends/eager/adaln.py)."""
    return _modulated(low, out, layer_norm(low, out, x, x.shape[-1:], None, None, eps), scale, shift)


@handler("comfy_kitchen.rms_adaln.default")
def rms_adaln(low: Lowering, out: Window, x: Window, scale: Window, shift: Window, eps: float = 1e-6) -> int:
    """The same of a root mean square normalisation."""
    return _modulated(low, out, rms_norm(low, out, x, x.shape[-1:], None, eps), scale, shift)


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
def softmax(low: Lowering, out: Window, x: Window, dim: int, *_: Any) -> Operand:
    """Softmax over one dimension."""
    scores = low.b.op("soft_max", rows_over(low, low.operand(x), dim))
    return rows_back(scores, out.shape, dim)
