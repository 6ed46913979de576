"""Handlers of matrix products: linear layers with their low-rank branches, mm, addmm, bmm."""

from __future__ import annotations

import numpy as np

from ...ggml_types import QUANTIZED
from ...program.builder import LowerError
from ...trace.graph import Window
from ...weights.scaling import hadamard
from ..lowering import Lowering, handler
from ..strides import Operand, binary, contiguous, contiguous_stride, rows, rows_packed
from .data_movement import clone, fill


@handler("linear")
def linear(low: Lowering, out: Window, x: Window, weight: Window, bias: Window | None = None) -> int:
    """x [.., in] times weight [out, in], and its low-rank branch where it has one (Hu et al. 2021, section 4)."""
    b = low.b
    if not x.numel:  # a product over no channels
        return clone(low, out, bias) if bias is not None else fill(low, out, out)
    columns = rows_packed(b, rows(b, low.operand(x)))
    name = low.weight_name(weight)
    known = low.weights.get(name or "")
    if known and known.rotation:
        matrix = b.leaf("weight", name or "", known.type, known.shape)
        result = _multiply(low, matrix, _turned(low, columns, known.rotation))
    else:
        result = _multiply(low, _matrix(low, weight), columns)
    rank = low.ranks.get(name or "", 0)
    if rank:
        down = b.leaf("weight", f"{name}.lora_down", "F32", (rank, weight.shape[1]))
        up = b.leaf("weight", f"{name}.lora_up", "F32", (weight.shape[0], rank))
        branch = _multiply(low, up, _multiply(low, down, columns))
        result = b.op("add", result, branch)
    if bias is not None:
        result = b.op("add", result, b.reshape(contiguous(b, low.operand(bias)), (bias.numel,)))
    return low.to_layout(result, out)


def _turned(low: Lowering, columns: int, group: int) -> int:
    """Activations [.., in] times the Hadamard matrix of every `group` channels, which such weights were turned by.

    Once for all layers that multiply the same. F16 has the two values of the matrix exactly.
    """
    key = ("turned", columns, group)
    if key not in low.cache:
        b = low.b
        shape = tuple(reversed(b[columns].ne))
        groups = b.reshape(columns, (b.numel(columns) // group, group))
        low.cache[key] = b.reshape(b.op("mul_mat", b.constant(hadamard(group).astype(np.float16)), groups), shape)
    found: int = low.cache[key]
    return found


def _matrix(low: Lowering, weight: Window) -> int:
    """A weight [out, in] as rows of `in`, which mul_mat takes."""
    return rows(low.b, low.stored(weight))


def _multiply(low: Lowering, matrix: int, columns: int) -> int:
    """Activations [.., in] times a matrix [out, in]."""
    return low.unscale(low.b.op("mul_mat", matrix, low.scale_down(columns)))


@handler("mm")
def mm(low: Lowering, out: Window, first: Window, second: Window) -> int:
    """first [m, k] times second [k, n]."""
    right = low.stored(second).permuted((1, 0))
    if right.stride[1] != 1 and low.b[right.tensor].type in QUANTIZED:  # whose blocks cannot be turned
        right = low.operand(second).permuted((1, 0))
    return low.to_layout(_multiply(low, rows(low.b, right), rows_packed(low.b, rows(low.b, low.operand(first)))), out)


@handler("addmm")
def addmm(low: Lowering, out: Window, bias: Window, first: Window, second: Window, **factors: float) -> int:
    """bias + first [m, k] times second [k, n]."""
    if any(value != 1 for value in factors.values()):
        raise LowerError(f"addmm with {factors}")
    product = mm(low, out, first, second)
    added = low.operand(bias).broadcast(out.shape)
    return binary(low.b, "add", Operand(product, out.shape, contiguous_stride(out.shape)), added, low.layout(out))


@handler("bmm")
def bmm(low: Lowering, out: Window, first: Window, second: Window) -> int:
    """first [b, m, k] times second [b, k, n]; both differ from one b to the next."""
    b = low.b
    transposed = low.operand(second).permuted((0, 2, 1))
    left = b.reshape(contiguous(b, low.operand(first)), first.shape)
    right = b.reshape(contiguous(b, transposed), transposed.shape)
    result = b.op("mul_mat", low.scale_down(right), low.scale_down(left))
    return low.to_layout(low.unscale(result, 2), out)
