"""Handlers that pick elements by number, of tables and along dimensions, and that put elements in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ...program.builder import LowerError
from ...trace.graph import Window
from ..host import on_host
from ..lowering import Lowering, Made, handler
from ..strides import Layout, Operand, contiguous, contiguous_stride, covers, rows, unary
from .elementwise import positive
from .reductions import rows_back, rows_over

_MOST_NUMBERS = 1 << 24  # whole numbers that F32 tells apart


def _numbers(low: Lowering, ids: Window) -> int:
    """Row numbers as get_rows takes them, in the order of torch."""
    x = low.stored(ids)
    numbers = low.b.reshape(contiguous(low.b, x), (ids.numel,))
    return numbers if low.b[numbers].type == "I32" else low.b.op("cast", numbers, type="I32")


@handler("embedding")
def embedding(low: Lowering, out: Window, table: Window, ids: Window, *_: Any) -> int:
    """Rows of a table by row numbers."""
    return low.to_layout(low.b.op("get_rows", rows(low.b, low.stored(table)), _numbers(low, ids)), out)


@handler("index")
def index(low: Lowering, out: Window, x: Window, indices: Sequence[Window | None]) -> Operand:
    """Elements at positions along dimensions: those whose indices are given, which need not be the first ones."""
    dims = [dim for dim, each in enumerate(indices) if each is not None]
    given = [each for each in indices if each is not None]
    if any(each.dtype == torch.bool for each in given):
        raise LowerError("an index by truth values, whose result has a shape of its own")
    if len(given) == 1 and _is_every(low, given[0], x.shape[dims[0]]):
        return low.operand(x)
    rest = [dim for dim in range(len(x.shape)) if dim not in dims]
    sizes = tuple(x.shape[dim] for dim in dims)
    picked = tuple(torch.broadcast_shapes(*(each.shape for each in given)))
    length = math.prod(x.shape[dim] for dim in rest)
    table = low.b.reshape(contiguous(low.b, low.operand(x).permuted([*dims, *rest])), (math.prod(sizes), length))
    rows = low.b.op("get_rows", table, _positions(low, given, sizes, picked))
    shape = (*picked, *(x.shape[dim] for dim in rest))
    together = dims == list(range(dims[0], dims[-1] + 1))
    before = dims[0] if together else 0  # where the positions are not next to each other they come first
    order = [*range(len(picked), len(picked) + before), *range(len(picked)), *range(len(picked) + before, len(shape))]
    return Operand(rows, shape, contiguous_stride(shape)).permuted(order)


def _is_every(low: Lowering, numbers: Window, size: int) -> bool:
    """Whether numbers are those of all elements along a dimension, in order."""
    return numbers.shape == (size,) and low.is_constant(numbers) and torch.equal(low.value(numbers), torch.arange(size))


@on_host
def _positions_on_host(*parts: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    return _row_numbers(parts, sizes)


def _positions(low: Lowering, given: Sequence[Window], sizes: Sequence[int], picked: Sequence[int]) -> int:
    """Row numbers in a table of all positions; negative indices count from the end."""
    b = low.b
    if not any(low.on_device(each) for each in given):
        key, positions = ("positions", tuple(sizes)), partial(_positions_on_host, sizes=tuple(sizes))
        numbers = contiguous(b, low.host_computed(key, positions, *given, dtype=torch.int64))
        return b.reshape(numbers, (math.prod(picked),))
    if math.prod(sizes) > _MOST_NUMBERS:
        raise LowerError(f"an index that the device computes into {math.prod(sizes)} positions")
    layout = Layout.of(tuple(picked), contiguous_stride(picked))
    flat: int | None = None
    for each, size in zip(given, sizes, strict=True):
        part = b.reshape(unary(b, "scale", low.operand(each), layout, factor=1.0), picked)
        below = positive(b, b.op("scale", part, factor=-1.0))
        part = b.op("add", part, b.op("scale", below, factor=float(size)))
        flat = part if flat is None else b.op("add", b.op("scale", flat, factor=float(size)), part)
    assert flat is not None
    return b.op("cast", b.reshape(flat, (math.prod(picked),)), type="I32")


def _row_numbers(indices: Sequence[torch.Tensor], sizes: Sequence[int]) -> torch.Tensor:
    """Positions along dimensions of these sizes as one number each; negative indices count from the end."""
    flat = torch.zeros((), dtype=torch.int64)
    for index, size in zip(torch.broadcast_tensors(*indices), sizes, strict=True):
        flat = flat * size + torch.where(index < 0, index + size, index)
    return flat.reshape(-1)


@handler("index_put")
def index_put(
    low: Lowering, out: Window, x: Window, indices: Sequence[Window | None], values: Window, accumulate: bool = False
) -> int:
    """x with values at positions along neighbouring dimensions: whole numbers, or truth values where they are."""
    if not values.numel:  # at no position
        return low.to_layout(contiguous(low.b, low.operand(x)), out)
    given = [each for each in indices if each is not None]
    before = len(indices) - len(given)
    together = list(indices[:before]) == [None] * before
    if accumulate or not together or any(low.on_device(each) for each in given):
        raise LowerError("values put where the device says, or at dimensions apart, or added up")
    by_truth = any(each.dtype == torch.bool for each in given)
    dims = sum(len(each.shape) if each.dtype == torch.bool else 1 for each in given)
    lead, sizes, inner = x.shape[:before], x.shape[before : before + dims], x.shape[before + dims :]
    outer = values.shape[: max(0, len(values.shape) - len(inner))]
    several = math.prod(outer) > 1  # else the same row is put at every position
    batch, count, length = math.prod(lead), math.prod(sizes), math.prod(inner)

    def rows(*parts: torch.Tensor) -> torch.Tensor:
        places: list[torch.Tensor] = []
        for part in parts:
            places += part.nonzero(as_tuple=True) if part.dtype == torch.bool else [part]
        numbers = _row_numbers(places, sizes)
        found = torch.arange(batch * count).reshape(batch, count)
        put = torch.arange(batch * len(numbers)).reshape(batch, -1) if several else torch.zeros(batch, 1).long()
        found[:, numbers] = batch * count + put
        return found.reshape(-1)

    picked = outer[before:] if by_truth else tuple(torch.broadcast_shapes(*(each.shape for each in given)))
    b, shape = low.b, (*((*lead, *picked) if several else ()), *inner)
    row = low.operand(values)
    if not several:  # without the dimensions of one element before those of a row
        row = replace(row, shape=row.shape[len(outer) :], stride=row.stride[len(outer) :])
    put = b.reshape(contiguous(b, row.broadcast(shape)), (math.prod(shape) // length, length))
    if several and all(map(low.is_constant, given)):
        found = rows(*map(low.value, given)) - batch * count
        if not (found < 0).any():  # nothing of x stays
            order = b.constant(found.to(torch.int32).numpy())
            every = torch.equal(found, torch.arange(batch * count))
            return low.to_layout(put if every else b.op("get_rows", put, order), out)
    numbers = contiguous(b, low.host_computed(("put", x.shape, before, several), rows, *given, dtype=torch.int64))
    there = b.reshape(contiguous(b, low.operand(x)), (batch * count, length))
    table = b.op("concat", there, put, dim=1)
    return low.to_layout(b.op("get_rows", table, b.reshape(numbers, (batch * count,))), out)


@handler("index_copy")
def index_copy(low: Lowering, out: Window, x: Window, dim: int, numbers: Window, values: Window) -> Made:
    """x with elements at positions along a dimension replaced by others.

    Where x is an input of the call they are written into it, so that it keeps them from call to call (runner/graph).
    """
    if not x.shape:
        return low.to_layout(contiguous(low.b, low.operand(values)), out)
    dim %= len(x.shape)
    b, before, after = low.b, math.prod(x.shape[:dim]), math.prod(x.shape[dim + 1 :])
    size = math.prod(x.shape)
    whole = covers(x.shape, x.stride, x.offset, low.trace.storages[x.storage]) and x.storage == out.storage
    inputs = {window.storage for window in low.trace.inputs.values()}
    table = low.operand(x)
    if x.storage not in inputs or not whole or b[b.root(table.tensor)].kind != "input" or low.on_device(numbers):
        return index_put(low, out, x, [*[None] * dim, numbers], values)
    table_rows = b.reshape(contiguous(b, table), (before, size // before // after, after))
    put = b.reshape(contiguous(b, low.operand(values)), (before, numbers.numel, after))
    return low.to_layout(b.op("set_rows", table_rows, put, _numbers(low, numbers)), out)


@handler("index_select")
def index_select(low: Lowering, out: Window, x: Window, dim: int, numbers: Window) -> Operand:
    """Elements at positions along one dimension; the only position of what has none is the first."""
    if not x.shape:
        return low.operand(x).broadcast(out.shape)
    return index(low, out, x, [*[None] * (dim % len(x.shape)), numbers])


@handler("gather")
def gather(low: Lowering, out: Window, x: Window, dim: int, numbers: Window, **_: Any) -> Operand:
    """out[i, j] = x[i, numbers[i, j]], along any dimension; the others of x may be longer than those of the numbers."""
    if not x.shape:
        return low.operand(x).broadcast(out.shape)
    dim %= len(x.shape)
    shape = tuple(n if i == dim else numbers.shape[i] for i, n in enumerate(x.shape))
    table = rows_over(low, replace(low.operand(x), shape=shape), dim)
    picked = rows_over(low, low.stored(numbers), dim)
    return rows_back(_picked(low, table, picked), out.shape, dim)


def _picked(low: Lowering, table: int, numbers: int) -> int:
    """Elements of each row of a table [rows, length] by numbers [rows, count]."""
    b = low.b
    length, rows = b[table].ne[:2]
    if b[numbers].type != "I32":
        numbers = b.op("cast", numbers, type="I32")
    return b.op("get_rows", b.reshape(table, (rows, length, 1)), numbers)


def _in_order(low: Lowering, x: Window, dim: int, descending: bool) -> tuple[int, int]:
    """x as rows along a dimension, and the places of each row's elements in order."""
    rows = rows_over(low, low.operand(x), dim)
    return rows, low.b.op("argsort", rows, descending=descending)


@handler("sort")
def sort(
    low: Lowering,
    out: Window,
    x: Window,
    *arguments: Any,
    dim: int = -1,
    descending: bool = False,
    stable: bool = False,
) -> tuple[Operand, Operand]:
    """x in order along a dimension, and where each element was; equal ones come in any order."""
    for argument in arguments:  # dim and descending
        if isinstance(argument, bool):
            descending = argument
        elif argument is not None:
            dim = argument
    rows, places = _in_order(low, x, dim, descending)
    numbers = low.b.op("cast", places, type="F32")
    return rows_back(_picked(low, rows, places), out.shape, dim), rows_back(numbers, out.shape, dim)


@handler("argsort")
def argsort(low: Lowering, out: Window, x: Window, *arguments: Any, **named: Any) -> Operand:
    """Where the elements along a dimension are, in order; equal ones come in any order."""
    return sort(low, out, x, *arguments, **named)[1]


@handler("topk")
def topk(
    low: Lowering, out: Window, x: Window, count: int, dim: int = -1, largest: bool = True, *_: Any
) -> tuple[Operand, Operand]:
    """The largest or smallest along a dimension, in order, and where they are."""
    b = low.b
    rows, places = _in_order(low, x, dim, largest)
    length, number = b[rows].ne[:2]
    first = contiguous(b, Operand(places, (number, count), (length, 1)))
    first = b.reshape(first, (number, count))
    numbers = b.op("cast", first, type="F32")
    return rows_back(_picked(low, rows, first), out.shape, dim), rows_back(numbers, out.shape, dim)
