"""Handlers of comparisons, logic and choices by a condition; truth values are F32: 1 where true, 0 elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from ...program.builder import LowerError
from ...trace.graph import Window
from ..host import on_host
from ..lowering import Lowering, handler
from ..strides import Layout, Operand, binary, contiguous_stride, unary
from .elementwise import LARGEST, Argument, operand_of, positive, sub


def inverted(low: Lowering, flags: int) -> int:
    """1 where the flags are 0, and the other way round."""
    return low.b.op("scale", flags, factor=-1.0, bias=1.0)


@handler("gt")
def greater(low: Lowering, out: Window, first: Argument, second: Argument) -> int:
    """first > second."""
    return positive(low.b, sub(low, out, first, second))


@handler("lt")
def less(low: Lowering, out: Window, first: Argument, second: Argument) -> int:
    """first < second."""
    return greater(low, out, second, first)


@handler("ge")
def greater_or_equal(low: Lowering, out: Window, first: Argument, second: Argument) -> int:
    """first >= second."""
    return inverted(low, greater(low, out, second, first))


@handler("le")
def less_or_equal(low: Lowering, out: Window, first: Argument, second: Argument) -> int:
    """first <= second."""
    return inverted(low, greater(low, out, first, second))


@handler("ne")
def unequal(low: Lowering, out: Window, first: Argument, second: Argument) -> int:
    """first != second; of a tensor and itself it is asked for NaN."""
    if first == second and isinstance(first, Window):
        return is_nan(low, out, first)
    return positive(low.b, low.b.op("abs", sub(low, out, first, second)))


@handler("eq")
def equal(low: Lowering, out: Window, first: Argument, second: Argument) -> int:
    """first == second."""
    return inverted(low, unequal(low, out, first, second))


def _finite(low: Lowering, out: Window, x: Window) -> int:
    """x * 0 + 1 is 1, or NaN, which is not above 0."""
    return positive(low.b, unary(low.b, "scale", low.operand(x), low.layout(out), factor=0.0, bias=1.0))


@handler("isinf")
def is_infinite(low: Lowering, out: Window, x: Window) -> int:
    """Whether x is infinity or minus infinity."""
    magnitude = low.b.op("abs", unary(low.b, "scale", low.operand(x), low.layout(out), factor=1.0))
    return positive(low.b, low.b.op("scale", magnitude, factor=1.0, bias=-LARGEST))


@handler("isnan")
def is_nan(low: Lowering, out: Window, x: Window) -> int:
    """Whether x is no number: neither finite nor infinite."""
    return inverted(low, low.b.op("add", _finite(low, out, x), is_infinite(low, out, x)))


def flags_of(low: Lowering, x: Window) -> Operand:
    """x as truth values: what is not a bool is true unless it is 0."""
    if x.dtype == torch.bool:
        return low.operand(x)
    if not low.on_device(x):
        return low.host_computed("flags", _flags, x)
    flags = low.temporary(x.shape)
    low.bind(flags, unequal(low, flags, x, 0))
    return low.operand(flags)


@on_host
def _flags(values: torch.Tensor) -> torch.Tensor:
    return (values != 0).float()


@on_host
def _inverted_flags(values: torch.Tensor) -> torch.Tensor:
    return (values == 0).float()


@on_host
def _chosen(condition: torch.Tensor, value: torch.Tensor, when: bool) -> torch.Tensor:
    return torch.where(condition.bool() == when, value.float(), torch.zeros(()))


@handler("logical_not")
def logical_not(low: Lowering, out: Window, x: Window) -> int:
    """Whether x is 0."""
    return unary(low.b, "scale", flags_of(low, x), low.layout(out), factor=-1.0, bias=1.0)


@handler("logical_and")
def logical_and(low: Lowering, out: Window, first: Window, second: Window) -> int:
    """Whether both are true."""
    return binary(low.b, "mul", flags_of(low, first), flags_of(low, second), low.layout(out))


@handler("logical_or")
def logical_or(low: Lowering, out: Window, first: Window, second: Window) -> int:
    """Whether one of them is true, or both."""
    return positive(low.b, binary(low.b, "add", flags_of(low, first), flags_of(low, second), low.layout(out)))


@handler("logical_xor")
def logical_xor(low: Lowering, out: Window, first: Window, second: Window) -> int:
    """Whether only one of them is true."""
    return low.b.op("abs", binary(low.b, "sub", flags_of(low, first), flags_of(low, second), low.layout(out)))


def _bitwise(logical: Callable[..., int], *names: str) -> None:
    @handler(*names)
    def apply(low: Lowering, out: Window, *values: Window) -> int:
        if any(not isinstance(x, Window) or x.dtype != torch.bool for x in values):
            raise LowerError(f"{names[0]} of whole numbers")
        return logical(low, out, *values)


_bitwise(logical_and, "bitwise_and", "__and__")
_bitwise(logical_or, "bitwise_or")
_bitwise(logical_xor, "bitwise_xor")
_bitwise(logical_not, "bitwise_not")


def _condition(low: Lowering, condition: Window) -> tuple[Operand, Operand]:
    """1 where a condition holds, and 1 where it does not."""
    if not low.on_device(condition):
        return (
            low.host_computed("holds", _flags, condition),
            low.host_computed("fails", _inverted_flags, condition),
        )
    holds = low.temporary(condition.shape, torch.bool)
    low.bind(holds, unary(low.b, "scale", flags_of(low, condition), low.layout(holds), factor=1.0))
    fails = low.temporary(condition.shape, torch.bool)
    low.bind(fails, logical_not(low, fails, holds))
    return low.operand(holds), low.operand(fails)


@handler("where")
def where(low: Lowering, out: Window, condition: Window, first: Argument, second: Argument) -> int:
    """first where the condition holds, second elsewhere: the sum of both times 1 and 0.

    What the device computes is clamped before, so that infinity and NaN vanish where they are not chosen; a number that
    is infinite is added to what it replaces.
    """
    b = low.b
    holds, fails = _condition(low, condition)
    for value, other, others in ((first, second, fails), (second, first, holds)):
        number = _number(low, value)
        if number is not None and math.isinf(number):
            logs = _elementwise(low, "log", others)  # 0, or -inf
            signed = _elementwise(low, "scale", logs, factor=-math.copysign(1.0, number))
            return binary(b, "add", operand_of(low, other), signed, low.layout(out))
    chosen = _part(low, condition, first, holds, True)
    rest = _part(low, condition, second, fails, False)
    if chosen is not None and rest is not None:
        return binary(b, "add", chosen, rest, low.layout(out))
    either = (chosen or rest or operand_of(low, 0.0)).broadcast(out.shape)
    return unary(b, "scale", either, low.layout(out), factor=1.0)


def _number(low: Lowering, value: Argument) -> float | None:
    """The number that a value is throughout, where that is known."""
    return low.number(value) if isinstance(value, Window) else float(value)


def _part(low: Lowering, condition: Window, value: Argument, flags: Operand, when: bool) -> Operand | None:
    """The value where the condition is as `when`, 0 elsewhere; None for 0."""
    number = _number(low, value)
    if number is not None:
        return _elementwise(low, "scale", flags, factor=number) if number else None
    assert isinstance(value, Window)
    if not low.on_device(value) and not low.on_device(condition):
        return low.host_computed(("part", when), partial(_chosen, when=when), condition, value)
    finite = _elementwise(low, "clamp", low.operand(value), min=-LARGEST, max=LARGEST)
    shape = tuple(torch.broadcast_shapes(value.shape, flags.shape))
    layout = Layout.of(shape, contiguous_stride(shape))
    return Operand(binary(low.b, "mul", finite, flags, layout), shape, contiguous_stride(shape))


def _elementwise(low: Lowering, name: str, x: Operand, **parameters: float) -> Operand:
    stride = contiguous_stride(x.shape)
    return Operand(unary(low.b, name, x, Layout.of(x.shape, stride), **parameters), x.shape, stride)


@handler("masked_fill")
def masked_fill(low: Lowering, out: Window, x: Window, mask: Window, value: Argument) -> int:
    """x where the mask is false, the value elsewhere."""
    return where(low, out, mask, value, x)


@handler("maximum")
def maximum(low: Lowering, out: Window, first: Window, second: Window) -> int:
    """The larger of both."""
    return where(low, out, _compared(low, out, greater, first, second), first, second)


@handler("minimum")
def minimum(low: Lowering, out: Window, first: Window, second: Window) -> int:
    """The smaller of both."""
    return where(low, out, _compared(low, out, less, first, second), first, second)


def _compared(low: Lowering, out: Window, comparison: Callable[..., int], *values: Argument) -> Window:
    flags = low.temporary(out.shape, torch.bool)
    low.bind(flags, comparison(low, flags, *values))
    return flags


@handler("nan_to_num")
def nan_to_num(
    low: Lowering, out: Window, x: Window, nan: float | None = None, posinf: float | None = None,
    neginf: float | None = None,
) -> int:  # fmt: skip
    """x with numbers in place of NaN (0 by default) and the infinities (the largest and the smallest of F32)."""
    result: Argument = x
    for limit, beyond in ((posinf, math.inf), (neginf, -math.inf)):
        if limit is not None:
            result = _replaced(low, out, _compared(low, out, equal, x, beyond), limit, result)
    return where(low, out, _compared(low, out, is_nan, x), 0.0 if nan is None else nan, result)


def _replaced(low: Lowering, out: Window, condition: Window, value: Argument, x: Argument) -> Window:
    replaced = low.temporary(out.shape)
    low.bind(replaced, where(low, replaced, condition, value, x))
    return replaced
