"""Handlers of the layers: linear maps, convolutions, norms, reductions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..trace.graph import Window
from .elementwise import binary
from .geometry import Operand, contiguous_stride, dense, norm_rows, packed, rows
from .lowering import LowerError, Lowering, handler


@handler("linear")
def linear(low: Lowering, out: Window, x: Window, weight: Window, bias: Window | None = None) -> int:
    """x [.., in] times weight [out, in], and its low-rank branch where it has one (Hu et al. 2021, section 4)."""
    b = low.b
    columns = packed(b, rows(b, low.operand(x)))
    result = _multiply(low, _matrix(low, weight), columns)
    name = low.weight_name(weight)
    rank = low.ranks.get(name or "", 0)
    if rank:
        down = b.leaf("weight", f"{name}.lora_down", "F32", (weight.shape[1], rank))
        up = b.leaf("weight", f"{name}.lora_up", "F32", (rank, weight.shape[0]))
        branch = _multiply(low, up, _multiply(low, down, columns))
        result = b.op("add", result, branch, ne=b[result].ne)
    if bias is not None:
        added = b.reshape(dense(b, low.operand(bias)), (bias.numel,))
        result = b.op("add", result, added, ne=b[result].ne)
    return low.natural(result, out)


def _matrix(low: Lowering, weight: Window) -> int:
    """A weight [out, in] as ggml multiplies it: rows of `in`."""
    return rows(low.b, low.stored(weight))


def _multiply(low: Lowering, matrix: int, columns: int) -> int:
    """ggml's mul_mat of weights with activations."""
    ne = (low.b[matrix].ne[1], *low.b[columns].ne[1:])
    result = low.b.op("mul_mat", matrix, low.reduced(columns), ne=ne, parameters=("F32",))
    return low.restored(result)


@handler("mm")
def mm(low: Lowering, out: Window, first: Window, second: Window) -> int:
    """first [m, k] times second [k, n]."""
    right = low.stored(second).permuted((1, 0))
    return low.natural(_multiply(low, rows(low.b, right), packed(low.b, rows(low.b, low.operand(first)))), out)


@handler("addmm")
def addmm(low: Lowering, out: Window, bias: Window, first: Window, second: Window, **factors: float) -> int:
    """bias + first [m, k] times second [k, n]."""
    if any(value != 1 for value in factors.values()):
        raise LowerError(f"addmm with {factors}")
    product = mm(low, out, first, second)
    added = low.operand(bias).broadcast(out.shape)
    whole = Operand(product, out.shape, contiguous_stride(out.shape))
    return binary(low.b, "add", whole, added, low.layout(out))


@handler("bmm")
def bmm(low: Lowering, out: Window, first: Window, second: Window) -> int:
    """first [b, m, k] times second [b, k, n]; both differ from one b to the next."""
    b = low.b
    batch, tokens, inner = first.shape
    left = b.reshape(dense(b, low.operand(first)), (inner, tokens, batch))
    right = b.reshape(dense(b, low.operand(second).permuted((0, 2, 1))), (inner, second.shape[2], batch))
    ne = (second.shape[2], tokens, batch)
    result = b.op("mul_mat", low.reduced(right), low.reduced(left), ne=ne, parameters=("F32",))
    return low.natural(low.restored(result, 2), out)


@handler("convolution")
def convolution(
    low: Lowering, out: Window, x: Window, weight: Window, bias: Window | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, _output_padding: Sequence[int], groups: int,
) -> int:  # fmt: skip
    """A 2-D convolution of x [batch, channels, height, width] with weight [out, in, kernel, kernel]."""
    if transposed or groups != 1 or len(x.shape) != 4:
        raise LowerError(f"a convolution of {x.shape} with {weight.shape}, groups {groups}, transposed {transposed}")
    b = low.b
    picture = b.reshape(dense(b, low.operand(x)), tuple(reversed(x.shape)))
    kernel = low.stored(weight).tensor
    ne = tuple(reversed(out.shape))
    parameters = (*reversed(stride), *reversed(padding), *reversed(dilation))
    if b[kernel].type == "F32":
        result = b.op("conv_2d", kernel, picture, ne=ne, parameters=parameters)
    else:  # ggml brings the picture to the kernel's type
        result = low.restored(b.op("conv_2d", kernel, low.reduced(picture), ne=ne, parameters=parameters))
    if bias is not None:
        added = b.reshape(dense(b, low.operand(bias)), (1, 1, bias.numel))
        result = b.op("add", result, added, ne=ne)
    return low.natural(result, out)


def _affine(low: Lowering, normed: int, weight: Window | None, bias: Window | None, ne: Sequence[int]) -> int:
    """Scale and shift a normed tensor by vectors that fit `ne` when repeated."""
    b = low.b
    for name, vector in (("mul", weight), ("add", bias)):
        if vector is not None:
            normed = b.op(name, normed, b.reshape(dense(b, low.operand(vector)), ne), ne=b[normed].ne)
    return normed


@handler("native_layer_norm")
def layer_norm(
    low: Lowering, out: Window, x: Window, shape: Sequence[int], weight: Window | None, bias: Window | None, eps: float
) -> Operand:
    """Layer normalisation over the last dimensions (Ba, Kiros, Hinton 2016)."""
    source = norm_rows(low.b, low.operand(x), len(shape))
    normed = low.b.op("norm", source.tensor, ne=low.b[source.tensor].ne, parameters=(eps,))
    return replace(source, tensor=_affine(low, normed, weight, bias, (math.prod(shape),)))


@handler("rms_norm")
def rms_norm(
    low: Lowering, out: Window, x: Window, shape: Sequence[int], weight: Window | None = None, eps: float | None = None
) -> Operand:
    """Root mean square normalisation over the last dimensions (Zhang and Sennrich 2019)."""
    source = norm_rows(low.b, low.operand(x), len(shape))
    eps = 1.1920929e-07 if eps is None else eps  # torch's default: finfo(float32).eps
    normed = low.b.op("rms_norm", source.tensor, ne=low.b[source.tensor].ne, parameters=(eps,))
    return replace(source, tensor=_affine(low, normed, weight, None, (math.prod(shape),)))


@handler("native_group_norm")
def group_norm(
    low: Lowering, out: Window, x: Window, weight: Window | None, bias: Window | None, batch: int, channels: int,
    area: int, groups: int, eps: float,
) -> int:  # fmt: skip
    """Group normalisation of [batch, channels, ..] (Wu and He 2018)."""
    b = low.b
    source = b.reshape(dense(b, low.operand(x)), (area, 1, channels, batch))
    normed = b.op("group_norm", source, ne=b[source].ne, parameters=(groups, eps))
    return low.natural(_affine(low, normed, weight, bias, (1, 1, channels)), out)


@handler("_softmax")
def softmax(low: Lowering, out: Window, x: Window, dim: int, *_: Any) -> int:
    """Softmax over one dimension."""
    last = len(x.shape) - 1
    if dim % len(x.shape) != last:
        raise LowerError(f"a softmax over dimension {dim} of {x.shape}")
    source = _packed_rows(low, x)
    return low.natural(low.b.op("soft_max", source, ne=low.b[source].ne, parameters=(1.0,)), out)


def _packed_rows(low: Lowering, x: Window) -> int:
    """A window's last dimension as contiguous rows, copied: reductions take no gaps."""
    return low.b.reshape(dense(low.b, low.operand(x)), (x.shape[-1], x.numel // x.shape[-1]))


def _reduced(low: Lowering, name: str, out: Window, x: Window, dims: Sequence[int] | None) -> int:
    """Sum or mean over dimensions: they go last, and rows are reduced."""
    rank = len(x.shape)
    over = sorted(d % rank for d in dims) if dims else list(range(rank))
    order = [i for i in range(rank) if i not in over] + over
    length = math.prod(x.shape[i] for i in over)
    source = low.b.reshape(dense(low.b, low.operand(x).permuted(order)), (length, x.numel // length))
    return low.natural(low.b.op(name, source, ne=(1, x.numel // length)), out)


@handler("mean")
def mean(low: Lowering, out: Window, x: Window, dims: Sequence[int] | None = None, *_: Any, **__: Any) -> int:
    """The mean over dimensions."""
    return _reduced(low, "mean", out, x, dims)


@handler("sum")
def total(low: Lowering, out: Window, x: Window, dims: Sequence[int] | None = None, *_: Any, **__: Any) -> int:
    """The sum over dimensions."""
    return _reduced(low, "sum_rows", out, x, dims)
