"""Softmax, sums and means over dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...trace.graph import Window
from ..lowering import LowerError, Lowering, handler
from ..strides import contiguous


@handler("_softmax")
def softmax(low: Lowering, out: Window, x: Window, dim: int, *_: Any) -> int:
    """Softmax over one dimension."""
    last = len(x.shape) - 1
    if dim % len(x.shape) != last:
        raise LowerError(f"a softmax over dimension {dim} of {x.shape}")
    source = _packed_rows(low, x)
    return low.to_layout(low.b.op("soft_max", source, ne=low.b[source].ne, parameters=(1.0,)), out)


def _packed_rows(low: Lowering, x: Window) -> int:
    """A window's last dimension as contiguous rows, copied: reductions take no gaps."""
    return low.b.reshape(contiguous(low.b, low.operand(x)), (x.shape[-1], x.numel // x.shape[-1]))


def _reduction(low: Lowering, name: str, out: Window, x: Window, dims: Sequence[int] | None) -> int:
    """Sum or mean over dimensions: they go last, and rows are reduced."""
    rank = len(x.shape)
    over = sorted(d % rank for d in dims) if dims else list(range(rank))
    order = [i for i in range(rank) if i not in over] + over
    length = math.prod(x.shape[i] for i in over)
    source = low.b.reshape(contiguous(low.b, low.operand(x).permuted(order)), (length, x.numel // length))
    return low.to_layout(low.b.op(name, source, ne=(1, x.numel // length)), out)


@handler("mean")
def mean(low: Lowering, out: Window, x: Window, dims: Sequence[int] | None = None, *_: Any, **__: Any) -> int:
    """The mean over dimensions."""
    return _reduction(low, "mean", out, x, dims)


@handler("sum")
def total(low: Lowering, out: Window, x: Window, dims: Sequence[int] | None = None, *_: Any, **__: Any) -> int:
    """The sum over dimensions."""
    return _reduction(low, "sum_rows", out, x, dims)
