"""The vocabulary of a program: every operation, how many sources it takes and what its parameters mean."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from . import Tensor


@dataclass(frozen=True, slots=True)
class Operation:
    """sources: (fewest, most); parameters: names in order."""

    sources: tuple[int, int]
    parameters: tuple[str, ...] = ()

    def accepts(self, sources: int, parameters: int) -> bool:
        """Whether an op of the table has the right number of each."""
        return self.sources[0] <= sources <= self.sources[1] and parameters == len(self.parameters)


def _unary(*parameters: str) -> Operation:
    return Operation((1, 1), parameters)


def _binary(*parameters: str) -> Operation:
    return Operation((2, 2), parameters)


# one source and no parameter
UNARY = (
    "silu", "gelu", "gelu_erf", "gelu_quick", "relu", "tanh", "sigmoid", "neg", "abs", "exp", "sqr", "sqrt", "log",
    "sin", "cos", "sum_rows", "mean",
)  # fmt: skip
OPERATIONS: dict[str, Operation] = {
    # geometry: no arithmetic; offsets and strides (nb) in bytes, dimensions in ggml's order
    "view": _unary("ne0", "ne1", "ne2", "ne3", "nb1", "nb2", "nb3", "offset"),
    "reshape": _unary(),
    "permute": _unary("axis0", "axis1", "axis2", "axis3"),
    "cont": _unary(),
    "repeat": _unary(),
    "cast": _unary("type"),
    "concat": _binary("dim"),
    "pad": _unary("l0", "r0", "l1", "r1", "l2", "r2", "l3", "r3"),
    "set": _binary("nb1", "nb2", "nb3", "offset"),
    "get_rows": _binary(),
    # arithmetic, the second source repeated over the first
    "add": _binary(),
    "sub": _binary(),
    "mul": _binary(),
    "div": _binary(),
    "scale": _unary("factor", "bias"),
    "clamp": _unary("min", "max"),
    **{name: _unary() for name in UNARY},
    # layers
    "mul_mat": _binary("prec"),
    "rope": Operation((3, 3)),  # x, positions of the tokens, and what divides them for each pair of neighbours
    "norm": _unary("eps"),
    "rms_norm": _unary("eps"),
    "group_norm": _unary("groups", "eps"),
    "soft_max": Operation((1, 2), ("scale",)),
    "flash_attn": Operation((3, 4), ("scale",)),
    "conv_2d": _binary("stride0", "stride1", "pad0", "pad1", "dilation0", "dilation1"),
    "upscale": _unary("mode"),
}


def flops(tensor: Tensor, sources: list[Tensor]) -> float:
    """Floating-point operations of one row of the table; 0 for what only names other memory."""
    elements = float(prod(tensor.ne))
    if tensor.kind != "op" or tensor.name in ("view", "reshape", "permute"):
        return 0.0
    if tensor.name == "mul_mat":
        return 2.0 * elements * sources[0].ne[0]
    if tensor.name == "conv_2d":
        return 2.0 * elements * prod(sources[0].ne[:3])
    if tensor.name == "flash_attn":
        queries, keys, values = sources[0].ne, sources[1].ne, sources[2].ne
        return 2.0 * queries[1] * queries[2] * queries[3] * keys[1] * (queries[0] + values[0])
    return elements
