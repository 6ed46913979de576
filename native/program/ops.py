"""The table of operations: one row says all that the builder, the passes, the checks and the runner know of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from math import isqrt, prod
from typing import Any, get_type_hints

from .parameters import (
    Argsort,
    Cast,
    Clamp,
    Concat,
    Conv2d,
    Conv3d,
    GroupNorm,
    LeakyRelu,
    MulMat,
    Norm,
    Nothing,
    Pad,
    Permute,
    Pool2d,
    Rope,
    Scale,
    Set,
    Softmax,
    Upscale,
    View,
)
from .tensor import Ne, Tensor, Value

Sources = Sequence[Tensor]


# -- the shape of a result from its sources and parameters


def _first_ne(sources: Sources, _parameters: Any) -> Ne:
    return sources[0].ne


def _view_ne(_sources: Sources, view: View) -> Ne:
    return view.ne


def _permute_ne(sources: Sources, axes: Permute) -> Ne:
    ne = dict(zip(axes, sources[0].ne, strict=True))
    return ne[0], ne[1], ne[2], ne[3]


def _concat_ne(sources: Sources, concat: Concat) -> Ne:
    a, b, c, d = (n + sources[1].ne[i] * (i == concat.dim) for i, n in enumerate(sources[0].ne))
    return a, b, c, d


def _pad_ne(sources: Sources, pad: Pad) -> Ne:
    a, b, c, d = sources[0].ne
    return a + pad.l0 + pad.r0, b + pad.l1 + pad.r1, c + pad.l2 + pad.r2, d + pad.l3 + pad.r3


def _get_rows_ne(sources: Sources, _parameters: Any) -> Ne:
    table, rows = sources
    return table.ne[0], *rows.ne[:3]


def _rows_reduced_ne(sources: Sources, _parameters: Any) -> Ne:
    return 1, *sources[0].ne[1:]


def _argmax_ne(sources: Sources, _parameters: Any) -> Ne:
    return sources[0].ne[1], 1, 1, 1


def _mul_mat_ne(sources: Sources, _parameters: MulMat) -> Ne:
    matrix, columns = sources
    return matrix.ne[1], *columns.ne[1:]


def _flash_attn_ne(sources: Sources, _parameters: Softmax) -> Ne:
    query, _, value, *_ = sources
    return value.ne[0], query.ne[2], query.ne[1], query.ne[3]


def _convolved(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


def _conv_2d_ne(sources: Sources, conv: Conv2d) -> Ne:
    kernel, image = sources
    width = _convolved(image.ne[0], kernel.ne[0], conv.stride0, conv.pad0, conv.dilation0)
    height = _convolved(image.ne[1], kernel.ne[1], conv.stride1, conv.pad1, conv.dilation1)
    return width, height, kernel.ne[3], image.ne[3]


def _pool_2d_ne(sources: Sources, pool: Pool2d) -> Ne:
    ne = sources[0].ne
    width, height = (_convolved(n, pool[i], pool[i + 2], pool[i + 4], 1) for i, n in enumerate(ne[:2]))
    return width, height, ne[2], ne[3]


def _conv_3d_ne(sources: Sources, conv: Conv3d) -> Ne:
    kernel, volume = sources
    width = _convolved(volume.ne[0], kernel.ne[0], conv.stride0, conv.pad0, conv.dilation0)
    height = _convolved(volume.ne[1], kernel.ne[1], conv.stride1, conv.pad1, conv.dilation1)
    depth = _convolved(volume.ne[2], kernel.ne[2], conv.stride2, conv.pad2, conv.dilation2)
    channels = volume.ne[3] // conv.batch
    return width, height, depth, kernel.ne[3] // channels * conv.batch


# -- its type


def _first_type(sources: Sources, _parameters: Any) -> str:
    return sources[0].type


def _cast_type(_sources: Sources, cast: Cast) -> str:
    return cast.type


def _i32(_sources: Sources, _parameters: Any) -> str:
    return "I32"


def _f32(_sources: Sources, _parameters: Any) -> str:
    return "F32"


# -- and its floating-point operations


def _elements(ne: Ne, _sources: Sources) -> float:
    return float(prod(ne))


def _no_flops(_ne: Ne, _sources: Sources) -> float:
    return 0.0


def _mul_mat_flops(ne: Ne, sources: Sources) -> float:
    return 2.0 * prod(ne) * sources[0].ne[0]


def _flash_attn_flops(_ne: Ne, sources: Sources) -> float:
    query, key, value = (source.ne for source in sources[:3])
    return 2.0 * query[1] * query[2] * query[3] * key[1] * (query[0] + value[0])


def _conv_2d_flops(ne: Ne, sources: Sources) -> float:
    return 2.0 * prod(ne) * prod(sources[0].ne[:3])


def _conv_3d_flops(ne: Ne, sources: Sources) -> float:
    kernel, volume = (source.ne for source in sources)
    channels = isqrt(kernel[3] * volume[3] // ne[3])  # in * out times in * batch, by out * batch
    return 2.0 * prod(ne) * prod(kernel[:3]) * channels


class PerToken(Enum):
    """How an operation keeps tokens apart, so that it can be computed for some of them at a time."""

    ELEMENTS = "each element comes from the same element of every source"
    ROWS = "each row comes from the same row of the source, where tokens are rows"


@dataclass(frozen=True, slots=True)
class Operation:
    """One row.

    parameters: their class; sources: the fewest and the most.
    ne: the shape rule; None: a free choice, which the builder is given. type: the rule for the result's type.
    flops: floating-point operations, from the result's ne and the sources.
    is_view: names other memory and computes nothing. in_place: ggml's allocator may write the result over a source.
    per_token: whether and how tokens are independent. splittable: columns of the result come from the same columns of
    the sources. contiguous: reads contiguous memory only. repacked: the source that may be a repacked weight.
    """

    parameters: Callable[..., Any] = Nothing
    sources: tuple[int, int] = (1, 1)
    ne: Callable[[Sources, Any], Ne] | None = _first_ne
    type: Callable[[Sources, Any], str] = _first_type
    flops: Callable[[Ne, Sources], float] = _elements
    is_view: bool = False
    in_place: bool = False
    per_token: PerToken | None = None
    splittable: bool = False
    contiguous: bool = False
    repacked: int | None = None


def _view(parameters: Callable[..., Any], ne: Callable[[Sources, Any], Ne] | None, **facts: Any) -> Operation:
    return Operation(parameters, ne=ne, flops=_no_flops, is_view=True, **facts)


def _elementwise(parameters: Callable[..., Any] = Nothing, sources: int = 1, **facts: Any) -> Operation:
    return Operation(parameters, (sources, sources), per_token=PerToken.ELEMENTS, splittable=True, **facts)


OPERATIONS: dict[str, Operation] = {
    # no arithmetic: views of other memory, and copies
    "view": _view(View, _view_ne, per_token=PerToken.ROWS),
    "reshape": _view(Nothing, None, per_token=PerToken.ELEMENTS),
    "permute": _view(Permute, _permute_ne),
    "cont": Operation(),
    "repeat": Operation(ne=None),
    "cast": Operation(Cast, type=_cast_type),
    "concat": Operation(Concat, (2, 2), _concat_ne, per_token=PerToken.ROWS),
    "pad": Operation(Pad, ne=_pad_ne, per_token=PerToken.ROWS),
    "set": Operation(Set, (2, 2)),
    "get_rows": Operation(sources=(2, 2), ne=_get_rows_ne, type=_f32),  # a table, and the numbers of its rows
    "set_rows": Operation(sources=(3, 3), flops=_no_flops),  # a table, rows to write into it, and their numbers
    "upscale": Operation(Upscale, ne=None),
    # element by element; a second source is repeated over the first; without parameters they are ggml_NAME
    **{name: _elementwise(sources=2, in_place=True) for name in ("add", "sub", "mul", "div")},
    **{name: _elementwise(in_place=True) for name in ("silu", "gelu", "gelu_erf", "gelu_quick", "relu", "tanh")},
    **{name: _elementwise(in_place=True) for name in ("sigmoid", "neg", "abs", "exp", "sqr", "sqrt", "log")},
    **{name: _elementwise() for name in ("sin", "cos")},
    # the sign; the whole number below, above, the nearest (of halves the one further from 0), and towards 0
    **{name: _elementwise() for name in ("sgn", "floor", "ceil", "round", "trunc")},
    **{name: _elementwise() for name in ("elu", "softplus", "expm1")},
    "scale": _elementwise(Scale, in_place=True, contiguous=True),
    "clamp": _elementwise(Clamp, contiguous=True),
    "leaky_relu": _elementwise(LeakyRelu, contiguous=True),
    # row by row; dimension 0 is a row
    "sum_rows": Operation(ne=_rows_reduced_ne),
    "mean": Operation(ne=_rows_reduced_ne),
    "cumsum": Operation(per_token=PerToken.ROWS),
    "argmax": Operation(ne=_argmax_ne, type=_i32),
    "argsort": Operation(Argsort, type=_i32),
    "norm": Operation(Norm, per_token=PerToken.ROWS),
    "rms_norm": Operation(Norm, in_place=True, per_token=PerToken.ROWS),
    "soft_max": Operation(Softmax, (1, 2), in_place=True),  # scores, and what is added to them
    # layers
    "group_norm": Operation(GroupNorm),
    "rope": Operation(Rope, (3, 3), in_place=True),  # x, positions of the tokens, and divisors of each pair's angle
    "mul_mat": Operation(MulMat, (2, 2), _mul_mat_ne, _f32, _mul_mat_flops, per_token=PerToken.ROWS, repacked=0),
    # queries, keys, values [channels, tokens, heads, batch], and what is added to the scores
    "flash_attn": Operation(Softmax, (3, 4), _flash_attn_ne, _f32, _flash_attn_flops),
    "conv_2d": Operation(Conv2d, (2, 2), _conv_2d_ne, _f32, _conv_2d_flops),  # kernels, images
    "max_pool_2d": Operation(Pool2d, ne=_pool_2d_ne, contiguous=True),
    "conv_2d_dw": Operation(Conv2d, (2, 2), _conv_2d_ne, _f32, _conv_2d_flops),  # a kernel for each channel, images
    # kernels [width, height, depth, in * out], volumes [width, height, depth, in * batch]
    "conv_3d": Operation(Conv3d, (2, 2), _conv_3d_ne, _f32, _conv_3d_flops),
}


def is_view(tensor: Tensor) -> bool:
    """Whether a row of a program only names other memory."""
    return tensor.kind == "op" and OPERATIONS[tensor.name].is_view


def flops(tensor: Tensor, sources: Sources) -> float:
    """Floating-point operations of a row of a program; 0 for a leaf or a view."""
    return OPERATIONS[tensor.name].flops(tensor.ne, sources) if tensor.kind == "op" else 0.0


def parameters_of(name: str, values: Sequence[Value]) -> Any:
    """Values as the parameter class of an operation.

    Raises TypeError where they are of another number or type than its fields.
    """
    kind: Any = OPERATIONS[name].parameters
    parameters = kind._make(values)
    for value, (field, type_) in zip(parameters, _fields(kind), strict=True):
        if not isinstance(value, (int, float) if type_ is float else type_):
            raise TypeError(f"{name} takes {field} as {type_.__name__}, not {value!r}")
    return parameters


@cache
def _fields(kind: type) -> tuple[tuple[str, type], ...]:
    return tuple(get_type_hints(kind).items())
