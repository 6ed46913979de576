"""Handlers of operations that work element by element."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from ...program.builder import Builder, LowerError
from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import Layout, Operand, binary, contiguous_stride, unary

Argument = Window | float | int
LARGEST = 3.4028234e38  # of F32


def _scaled(low: Lowering, out: Window, x: Window, factor: float, bias: float = 0.0) -> int:
    return unary(low.b, "scale", low.operand(x), low.layout(out), factor=float(factor), bias=float(bias))


def constant_number(low: Lowering, value: Argument) -> float | None:
    """A scalar argument, given as such or as a constant of one element."""
    if not isinstance(value, Window):
        return float(value)
    return low.number(value) if value.numel == 1 else None


def _two(low: Lowering, name: str, out: Window, first: Window, second: Window) -> int:
    return binary(low.b, name, low.operand(first), low.operand(second), low.layout(out))


def positive(b: Builder, tensor: int) -> int:
    """1 above 0, and 0 elsewhere, also for NaN. ggml's step is 1 for 0 itself on Vulkan."""
    return b.op("sgn", b.op("relu", tensor))


@handler("add")
def add(low: Lowering, out: Window, first: Argument, second: Argument, alpha: float = 1) -> int:
    """first + alpha * second."""
    number = constant_number(low, second)
    if number is not None and isinstance(first, Window):
        return _scaled(low, out, first, 1.0, alpha * number)
    number = constant_number(low, first)
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
    if alpha == 1 and isinstance(first, Window) and isinstance(second, Window) and constant_number(low, second) is None:
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
        number = constant_number(low, other)
        if number is not None and isinstance(one, Window):
            return _scaled(low, out, one, number)
    assert isinstance(first, Window)
    assert isinstance(second, Window)
    return _two(low, "mul", out, first, second)


@handler("div")
def div(low: Lowering, out: Window, first: Argument, second: Argument, rounding_mode: str | None = None) -> int:
    """first / second, rounded down ("floor") or towards 0 ("trunc")."""
    number = constant_number(low, second)
    if number is not None and isinstance(first, Window) and rounding_mode is None:
        return _scaled(low, out, first, 1.0 / number)
    dividend, divisor = operand_of(low, first), operand_of(low, second)
    if rounding_mode is not None and all(isinstance(x, int) or _is_whole(x) for x in (first, second)):
        dividend = _past_the_middle(low, dividend, rounding_mode)
    quotient = binary(low.b, "div", dividend, divisor, low.layout(out))
    return quotient if rounding_mode is None else low.b.op(rounding_mode, quotient)


def _is_whole(x: Argument) -> bool:
    return isinstance(x, Window) and not x.dtype.is_floating_point


def _past_the_middle(low: Lowering, x: Operand, rounding_mode: str) -> Operand:
    """Whole numbers half a step away from where their quotient is whole itself, which a division may miss."""
    b, stride = low.b, contiguous_stride(x.shape)
    layout = Layout.of(x.shape, stride)
    if rounding_mode == "floor":
        return Operand(unary(b, "scale", x, layout, factor=1.0, bias=0.5), x.shape, stride)
    half = b.op("scale", unary(b, "sgn", x, layout), factor=0.5)
    return Operand(binary(b, "add", x, Operand(half, x.shape, stride), layout), x.shape, stride)


def operand_of(low: Lowering, value: Argument) -> Operand:
    """An argument, a number as a constant of one element."""
    if isinstance(value, Window):
        return low.operand(value)
    return Operand(low.b.constant(torch.full((1,), float(value)).numpy()), (1,), (1,))


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


for _name in ("silu", "sigmoid", "tanh", "relu", "exp", "sqrt", "log", "abs", "sin", "cos", "expm1"):
    _register(_name, _name)


@handler("tan")
def tan(low: Lowering, out: Window, x: Window) -> int:
    """sin(x) / cos(x)."""
    sine, cosine = low.temporary(x.shape), low.temporary(x.shape)
    for made, operation in ((sine, "sin"), (cosine, "cos")):
        low.bind(made, unary(low.b, operation, low.operand(x), low.layout(made)))
    return div(low, out, sine, cosine)


@handler("gelu")
def gelu(low: Lowering, out: Window, x: Window, approximate: str = "none") -> int:
    """The Gaussian error linear unit (Hendrycks and Gimpel 2016), exact or by tanh."""
    return unary(low.b, "gelu" if approximate == "tanh" else "gelu_erf", low.operand(x), low.layout(out))


@handler("leaky_relu")
def leaky_relu(low: Lowering, out: Window, x: Window, negative_slope: float = 0.01) -> int:
    """max(x, 0) + negative_slope * min(x, 0) (Maas, Hannun, Ng 2013)."""
    return unary(low.b, "leaky_relu", low.operand(x), low.layout(out), slope=float(negative_slope))


_SAME_SOFTPLUS = 17.0  # from here on log(1 + exp(x)) is x in F32


@handler("log2")
def log2(low: Lowering, out: Window, x: Window) -> int:
    """log(x) / log(2)."""
    return low.b.op("scale", unary(low.b, "log", low.operand(x), low.layout(out)), factor=1 / math.log(2))


@handler("softplus")
def softplus(low: Lowering, out: Window, x: Window, beta: float = 1.0, threshold: float = 20.0) -> int:
    """log(1 + exp(beta * x)) / beta, which is x in F32 where beta * x is beyond torch's threshold."""
    if threshold < _SAME_SOFTPLUS:
        raise LowerError(f"softplus with a threshold of {threshold}")
    scaled = unary(low.b, "scale", low.operand(x), low.layout(out), factor=float(beta))
    return low.b.op("scale", low.b.op("softplus", scaled), factor=1.0 / beta)


@handler("log_sigmoid_forward")
def log_sigmoid(low: Lowering, out: Window, x: Window) -> int:
    """log(sigmoid(x)), which is -softplus(-x)."""
    negated = unary(low.b, "scale", low.operand(x), low.layout(out), factor=-1.0)
    return low.b.op("scale", low.b.op("softplus", negated), factor=-1.0)


@handler("mish")
def mish(low: Lowering, out: Window, x: Window) -> int:
    """x * tanh(softplus(x)) (Misra 2019)."""
    gate = low.temporary(x.shape)
    low.bind(gate, low.b.op("tanh", softplus(low, gate, x)))
    return _two(low, "mul", out, x, gate)


@handler("elu")
def elu(low: Lowering, out: Window, x: Window, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> int:
    """scale * x above 0, scale * alpha * (exp(input_scale * x) - 1) below (Clevert, Unterthiner, Hochreiter 2015)."""
    b = low.b
    source, layout = low.operand(x), low.layout(out)
    if alpha == input_scale == 1:
        return b.op("scale", unary(b, "elu", source, layout), factor=float(scale))
    above = b.op("scale", unary(b, "relu", source, layout), factor=float(scale))
    below = b.op("scale", unary(b, "clamp", source, layout, min=-LARGEST, max=0.0), factor=float(input_scale))
    return b.op("add", above, b.op("scale", b.op("expm1", below), factor=float(scale * alpha)))


@handler("_prelu_kernel")
def prelu(low: Lowering, out: Window, x: Window, weight: Window) -> int:
    """max(x, 0) + weight * min(x, 0) (He et al. 2015)."""
    above, below, scaled = (low.temporary(x.shape) for _ in range(3))
    low.bind(above, unary(low.b, "relu", low.operand(x), low.layout(above)))
    low.bind(below, unary(low.b, "clamp", low.operand(x), low.layout(below), min=-LARGEST, max=0.0))
    low.bind(scaled, _two(low, "mul", scaled, below, weight))
    return _two(low, "add", out, above, scaled)


@handler("pow")
def power(low: Lowering, out: Window, x: Argument, exponent: Argument) -> int:
    """x ** exponent: by products for small whole exponents, else exp(exponent * log(x)), which is NaN below 0."""
    b, layout = low.b, low.layout(out)
    base, number = constant_number(low, x), constant_number(low, exponent)
    if number is not None and isinstance(x, Window):
        return _power_of(low, out, x, number)
    assert isinstance(exponent, Window)
    if base is not None:
        if base <= 0:
            raise LowerError(f"{base} to a power that the device computes")
        return b.op("exp", unary(b, "scale", low.operand(exponent), layout, factor=math.log(base)))
    assert isinstance(x, Window)
    logs = low.temporary(x.shape)
    low.bind(logs, unary(b, "log", low.operand(x), low.layout(logs)))
    return b.op("exp", _two(low, "mul", out, logs, exponent))


_MOST_FACTORS = 8


def _power_of(low: Lowering, out: Window, x: Window, exponent: float) -> int:
    b, layout, source = low.b, low.layout(out), low.operand(x)
    if exponent == 0.5:
        return unary(b, "sqrt", source, layout)
    if exponent != int(exponent) or abs(exponent) > _MOST_FACTORS:
        return b.op("exp", b.op("scale", unary(b, "log", source, layout), factor=float(exponent)))
    power, result = unary(b, "scale", source, layout, factor=1.0), None
    count = abs(int(exponent))
    if count == 2:
        result, count = unary(b, "sqr", source, layout), 0
    while count:
        if count % 2:
            result = power if result is None else b.op("mul", result, power)
        count //= 2
        power = b.op("sqr", power) if count else power
    if result is None:
        return unary(b, "scale", source, layout, factor=0.0, bias=1.0)
    if exponent > 0:
        return result
    inverse = replace(low.temporary(out.shape), stride=out.stride)
    low.bind(inverse, result)
    return div(low, out, 1.0, inverse)


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
    least = -LARGEST if smallest is None else float(smallest)
    most = LARGEST if largest is None else float(largest)
    return unary(low.b, "clamp", low.operand(x), low.layout(out), min=least, max=most)


@handler("clamp_max")
def clamp_max(low: Lowering, out: Window, x: Window, limit: float) -> int:
    """x, at most the limit."""
    return clamp(low, out, x, None, limit)


@handler("lerp")
def lerp(low: Lowering, out: Window, first: Window, second: Window, weight: Argument) -> int:
    """first + weight * (second - first)."""
    step = low.temporary(tuple(torch.broadcast_shapes(first.shape, second.shape)))
    low.bind(step, sub(low, step, second, first))
    part = low.temporary(out.shape)
    low.bind(part, mul(low, part, step, weight))
    return add(low, out, first, part)
