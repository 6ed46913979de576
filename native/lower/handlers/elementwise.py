"""Handlers of operations that work element by element."""

from __future__ import annotations

import math
from typing import Any

import torch

from ...program.builder import LowerError
from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import binary, unary

Argument = Window | float | int
_LARGEST = 3.4028234e38  # of F32


def _scaled(low: Lowering, out: Window, x: Window, factor: float, bias: float = 0.0) -> int:
    return unary(low.b, "scale", low.operand(x), low.layout(out), factor=float(factor), bias=float(bias))


def _number(low: Lowering, value: Argument) -> float | None:
    """A scalar argument, given as such or as a constant of one element."""
    if not isinstance(value, Window):
        return float(value)
    if value.numel == 1 and low.is_constant(value):
        return float(low.value(value))
    return None


def _two(low: Lowering, name: str, out: Window, first: Window, second: Window) -> int:
    return binary(low.b, name, low.operand(first), low.operand(second), low.layout(out))


@handler("add")
def add(low: Lowering, out: Window, first: Argument, second: Argument, alpha: float = 1) -> int:
    """first + alpha * second."""
    number = _number(low, second)
    if number is not None and isinstance(first, Window):
        return _scaled(low, out, first, 1.0, alpha * number)
    number = _number(low, first)
    if number is not None and isinstance(second, Window):
        return _scaled(low, out, second, alpha, number)
    assert isinstance(first, Window)
    assert isinstance(second, Window)
    if alpha == 1:
        return _two(low, "add", out, first, second)
    scaled = low.temporary(second.shape)
    low.bind(scaled, _scaled(low, scaled, second, alpha))
    return _two(low, "add", out, first, scaled)


@handler("sub")
def sub(low: Lowering, out: Window, first: Argument, second: Argument, alpha: float = 1) -> int:
    """first - alpha * second."""
    if alpha == 1 and isinstance(first, Window) and isinstance(second, Window) and _number(low, second) is None:
        return _two(low, "sub", out, first, second)
    return add(low, out, first, second, -alpha)


@handler("rsub")
def rsub(low: Lowering, out: Window, first: Window, second: Argument, alpha: float = 1) -> int:
    """second - alpha * first."""
    return sub(low, out, second, first, alpha)


@handler("mul")
def mul(low: Lowering, out: Window, first: Argument, second: Argument) -> int:
    """first * second."""
    for one, other in ((first, second), (second, first)):
        number = _number(low, other)
        if number is not None and isinstance(one, Window):
            return _scaled(low, out, one, number)
    assert isinstance(first, Window)
    assert isinstance(second, Window)
    return _two(low, "mul", out, first, second)


@handler("div")
def div(low: Lowering, out: Window, first: Argument, second: Argument, rounding_mode: str | None = None) -> int:
    """first / second."""
    if rounding_mode is not None:
        raise LowerError(f"division rounded by {rounding_mode}")
    number = _number(low, second)
    if number is not None and isinstance(first, Window):
        return _scaled(low, out, first, 1.0 / number)
    assert isinstance(second, Window)
    if not isinstance(first, Window):
        filled = low.b.constant(torch.full((1,), float(first)).numpy())
        one = low.temporary((1,))
        low.bind(one, filled)
        first = one
    return _two(low, "div", out, first, second)


@handler("reciprocal")
def reciprocal(low: Lowering, out: Window, x: Window) -> int:
    """1 / x."""
    return div(low, out, 1.0, x)


@handler("addcmul")
def addcmul(low: Lowering, out: Window, x: Window, first: Window, second: Window, value: float = 1) -> int:
    """x + value * first * second."""
    product = low.temporary(tuple(torch.broadcast_shapes(first.shape, second.shape)))
    low.bind(product, mul(low, product, first, second))
    return add(low, out, product, x) if value == 1 else add(low, out, x, product, value)


@handler("neg")
def neg(low: Lowering, out: Window, x: Window) -> int:
    """-x."""
    return _scaled(low, out, x, -1.0)


def _register(aten: str, operation: str) -> None:
    @handler(aten)
    def apply(low: Lowering, out: Window, x: Window, **_: Any) -> int:
        return unary(low.b, operation, low.operand(x), low.layout(out))


for _name in ("silu", "sigmoid", "tanh", "relu", "exp", "sqrt", "log", "abs", "sin", "cos"):
    _register(_name, _name)


@handler("gelu")
def gelu(low: Lowering, out: Window, x: Window, approximate: str = "none") -> int:
    """The Gaussian error linear unit (Hendrycks and Gimpel 2016), exact or by tanh."""
    return unary(low.b, "gelu" if approximate == "tanh" else "gelu_erf", low.operand(x), low.layout(out))


@handler("leaky_relu")
def leaky_relu(low: Lowering, out: Window, x: Window, negative_slope: float = 0.01) -> int:
    """max(x, 0) + negative_slope * min(x, 0) (Maas, Hannun, Ng 2013)."""
    return unary(low.b, "leaky_relu", low.operand(x), low.layout(out), slope=float(negative_slope))


@handler("pow")
def power(low: Lowering, out: Window, x: Window, exponent: float) -> int:
    """x ** exponent for the exponents that models use."""
    names = {2: "sqr", 0.5: "sqrt"}
    if exponent == 1:
        return _scaled(low, out, x, 1.0)
    if exponent not in names:
        raise LowerError(f"a power of {exponent}")
    return unary(low.b, names[exponent], low.operand(x), low.layout(out))


@handler("rsqrt")
def rsqrt(low: Lowering, out: Window, x: Window) -> int:
    """1 / sqrt(x)."""
    root = low.temporary(x.shape)
    low.bind(root, unary(low.b, "sqrt", low.operand(x), low.layout(root)))
    return div(low, out, 1.0, root)


@handler("clamp", "clamp_min", "hardtanh")
def clamp(
    low: Lowering, out: Window, x: Window, smallest: float | None = None, largest: float | None = None, **limits: float
) -> int:
    """x within limits."""
    if any(isinstance(limit, Window) for limit in (smallest, largest, *limits.values())):
        raise LowerError("a limit for each element")
    smallest = limits.get("min", smallest)
    largest = limits.get("max", largest)
    least = -_LARGEST if smallest is None else float(smallest)
    most = _LARGEST if largest is None else float(largest)
    return unary(low.b, "clamp", low.operand(x), low.layout(out), min=least, max=most)


@handler("clamp_max")
def clamp_max(low: Lowering, out: Window, x: Window, limit: float) -> int:
    """x, at most the limit."""
    return clamp(low, out, x, None, limit)


@handler("masked_fill")
def masked_fill(low: Lowering, out: Window, x: Window, mask: Window, value: Argument) -> int:
    """x where the mask is false, the value elsewhere; the mask comes from the host."""
    number = _number(low, value)
    if number is None or not math.isfinite(number):
        raise LowerError(f"a masked fill with {value}")
    kept = low.host_computed("kept", lambda m: (~m.bool()).float(), mask)
    filled = low.host_computed(("filled", number), lambda m: m.float() * number, mask)
    product = low.temporary(out.shape)
    low.bind(product, binary(low.b, "mul", low.operand(x), kept, low.layout(product)))
    return binary(low.b, "add", low.operand(product), filled, low.layout(out))
