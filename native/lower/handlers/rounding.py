"""Handlers of rounding, and of divisions that leave a remainder."""

from __future__ import annotations

from typing import Any

from ...program.builder import LowerError
from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import unary
from .comparison import where
from .elementwise import Argument, div, mul, positive, sub


def _register(aten: str, operation: str) -> None:
    @handler(aten)
    def apply(low: Lowering, out: Window, x: Window, **_: Any) -> int:
        return unary(low.b, operation, low.operand(x), low.layout(out))


for _name, _operation in (("floor", "floor"), ("ceil", "ceil"), ("trunc", "trunc"), ("sign", "sgn"), ("sgn", "sgn")):
    _register(_name, _operation)


@handler("round")
def nearest(low: Lowering, out: Window, x: Window, decimals: int = 0) -> int:
    """The nearest whole number; of two as near, the even one. ggml's takes the one further from 0."""
    if decimals:
        raise LowerError(f"rounding to {decimals} decimals")
    b = low.b
    rounded, even, halfway = (low.temporary(x.shape) for _ in range(3))
    layout = low.layout(rounded)
    low.bind(rounded, unary(b, "round", low.operand(x), layout))
    half = b.op("round", unary(b, "scale", low.operand(x), layout, factor=0.5))
    low.bind(even, b.op("scale", half, factor=2.0))
    distance = b.op("abs", sub(low, halfway, x, rounded))  # at most a half
    low.bind(halfway, positive(b, b.op("scale", distance, factor=1.0, bias=-0.49999997)))
    return where(low, out, halfway, even, rounded)


@handler("floor_divide")
def floor_divide(low: Lowering, out: Window, first: Argument, second: Argument) -> int:
    """first / second, rounded down."""
    return div(low, out, first, second, "floor")


@handler("remainder")
def remainder(low: Lowering, out: Window, first: Argument, second: Argument) -> int:
    """first - second * floor(first / second), which has the sign of second."""
    return _left_by(low, out, first, second, "floor")


@handler("fmod")
def fmod(low: Lowering, out: Window, first: Argument, second: Argument) -> int:
    """first - second * trunc(first / second), which has the sign of first."""
    return _left_by(low, out, first, second, "trunc")


def _left_by(low: Lowering, out: Window, first: Argument, second: Argument, rounding_mode: str) -> int:
    quotient, product = low.temporary(out.shape, out.dtype), low.temporary(out.shape)
    low.bind(quotient, div(low, quotient, first, second, rounding_mode))
    low.bind(product, mul(low, product, quotient, second))
    return sub(low, out, first, product)
