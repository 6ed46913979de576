"""Handlers of matrix products: linear layers with their low-rank branches, mm, addmm, bmm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ggml_types import QUANTIZED
from ...program.builder import LowerError
from ...trace.graph import Window
from ...weights.scaling import hadamard
from ..lowering import Branch, Lowering, handler
from ..strides import Operand, binary, contiguous, contiguous_stride, rows, rows_packed
from .data_movement import clone, fill

_PADDED = dict.fromkeys(("l0", "r0", "l1", "r1", "l2", "r2", "l3", "r3"), 0)  # zeros, before and after each dimension


@handler("linear")
def linear(low: Lowering, out: Window, x: Window, weight: Window, bias: Window | None = None) -> int:
    """x [.., in] times weight [out, in], and its low-rank branches where it has some (Hu et al. 2021, section 4)."""
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
    for branches in _beside_each_other(low.branches.get(name or "", ())):
        result = b.op("add", result, _branches(low, name or "", branches, columns, weight.shape[0]))
    if bias is not None:
        result = b.op("add", result, b.reshape(contiguous(b, low.operand(bias)), (bias.numel,)))
    return low.to_layout(result, out)


def _beside_each_other(branches: Sequence[Branch]) -> list[list[tuple[int, Branch]]]:
    """The branches with their numbers, in lists of such as share no rows, each in the order of its rows."""
    lists: list[list[tuple[int, Branch]]] = []
    for number, branch in sorted(enumerate(branches), key=lambda each: (each[1].row, each[1].rows)):
        found = next((each for each in lists if each[-1][1].row + each[-1][1].rows <= branch.row), None)
        if found is None:
            lists.append([])
        (lists[-1] if found is None else found).append((number, branch))
    return lists


def _branches(low: Lowering, name: str, branches: list[tuple[int, Branch]], columns: int, rows: int) -> int:
    """The sum of branches that share no rows, for a product of so many rows; zeros where none is."""
    b, parts, width = low.b, [], low.b[columns].ne[0]
    for place, (number, branch) in enumerate(branches):
        x = columns
        if branch.columns != width:
            count = b.numel(columns) // width
            window = b.window(columns, [(count, width), (branch.columns, 1)], branch.column)
            x = b.reshape(rows_packed(b, window), (*reversed(b[columns].ne[1:]), branch.columns))
        down, up = Branch.names(name, number)
        hidden = _multiply(low, b.leaf("weight", down, branch.type, (branch.rank, branch.columns)), x)
        part = _multiply(low, b.leaf("weight", up, branch.type, (branch.rows, branch.rank)), hidden)
        before = branch.row if place == 0 else 0
        after = (branches[place + 1][1].row if place + 1 < len(branches) else rows) - branch.row - branch.rows
        parts.append(b.op("pad", part, **_PADDED | {"l0": before, "r0": after}) if before or after else part)
    result = parts[0]
    for part in parts[1:]:
        result = b.op("concat", result, part, dim=0)
    return result


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
