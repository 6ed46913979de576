"""Makes the ggml call of every operation, after the checks without which ggml would abort the process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from ...ggml_types import LAYOUTS
from ...program import Tensor, ops, parameters
from ..ggml_binding import ggml
from .call import Call, contiguous, require, rows_contiguous, types, within
from .convolutions import conv_2d, conv_2d_dw, conv_3d, max_pool_2d

_FLOATS = ("F32", "F16", "BF16")
_GGML_PREC_F32 = 10
_ROPE_NEOX = 2  # GGML_ROPE_TYPE_NEOX
_UPSCALE_MODES = {"nearest": 0, "bilinear": 1}  # enum ggml_scale_mode


def _nb(tensor: Any) -> list[int]:
    return tensor.contents.nb[:]


def _repeats(small: Tensor, large: tuple[int, ...], fault: str) -> None:
    require(all(b % a == 0 for a, b in zip(small.ne, large, strict=True)), fault)


def _view(call: Call) -> Any:
    view: parameters.View = call.parameters
    within(view.ne, least=1)
    within((*view.nb, view.offset))
    source = call.sources[0].contents
    layout = LAYOUTS[call.declared[0].type]
    require(view.ne0 % layout.block == 0, f"rows of {view.ne0} elements cut through blocks of {call.declared[0].type}")
    whole = all(n % layout.nbytes == 0 for n in (*view.nb, view.offset))
    require(whole, f"strides {view.nb}, offset {view.offset} cut through elements")
    row = view.ne0 // layout.block * layout.nbytes
    reach = _reach(row, view.ne, view.nb)
    reach = max(reach, row * prod(view.ne[1:]))  # ggml demands that the elements fit even if they overlap
    root = source.view_src if source.view_src else call.sources[0]
    end, held = source.view_offs + view.offset + reach, ggml.ggml_nbytes(root)
    require(end <= held, f"the view ends at byte {end} of a tensor of {held}")
    return ggml.ggml_view_4d(call.context, call.sources[0], *view)


def _reach(row: int, ne: Sequence[int], nb: Sequence[int]) -> int:
    """Bytes from the first to past the last element: a row and the strides of the outer dimensions."""
    return row + sum((n - 1) * stride for n, stride in zip(ne[1:], nb, strict=True))


def _reshape(call: Call) -> Any:
    contiguous(call, 0)
    _same_count(call)
    return ggml.ggml_reshape_4d(call.context, call.sources[0], *call.tensor.ne)


def _same_count(call: Call) -> None:
    before, after = prod(call.declared[0].ne), prod(call.tensor.ne)
    require(before == after, f"{before} elements cannot become {after}")


def _permute(call: Call) -> Any:
    axes: parameters.Permute = call.parameters
    require(sorted(axes) == [0, 1, 2, 3], f"axes {tuple(axes)}")
    require(max(_nb(call.sources[0])) < 1 << 31, "strides of 2 GiB and more cannot be permuted")
    return ggml.ggml_permute(call.context, call.sources[0], *axes)


def _cont(call: Call) -> Any:
    types(call, 0, "F32", "F16", "BF16", "I32")
    _same_count(call)
    return ggml.ggml_cont_4d(call.context, call.sources[0], *call.tensor.ne)


def _repeat(call: Call) -> Any:
    types(call, 0, "F32", "F16", "BF16", "I32")
    _repeats(call.declared[0], call.tensor.ne, f"{call.declared[0].ne} does not repeat to {call.tensor.ne}")
    return ggml.ggml_repeat_4d(call.context, call.sources[0], *call.tensor.ne)


def _cast(call: Call) -> Any:
    cast: parameters.Cast = call.parameters
    layout = LAYOUTS.get(cast.type)
    require(layout is not None and layout.number is not None, f"{cast.type} is not a ggml type")
    assert layout is not None
    require(call.declared[0].ne[0] % layout.block == 0, f"rows of {call.declared[0].ne[0]} cut through blocks")
    return ggml.ggml_cast(call.context, call.sources[0], layout.number)


def _concat(call: Call) -> Any:
    first, second = call.declared
    concat: parameters.Concat = call.parameters
    within(concat, limit=4)
    require(first.type == second.type, f"{first.type} beside {second.type}")
    types(call, 0, "F32", "F16", "BF16", "I32")
    same = all(a == b for index, (a, b) in enumerate(zip(first.ne, second.ne, strict=True)) if index != concat.dim)
    require(same, f"{first.ne} and {second.ne} differ outside dimension {concat.dim}")
    return ggml.ggml_concat(call.context, *call.sources, concat.dim)


def _pad(call: Call) -> Any:
    pad: parameters.Pad = call.parameters
    types(call, 0, "F32")
    within(pad, limit=1 << 31)
    return ggml.ggml_pad_ext(call.context, call.sources[0], *pad)


def _set(call: Call) -> Any:
    target, window = call.declared
    to: parameters.Set = call.parameters
    within(to, limit=1 << 30)  # ggml keeps them in 32 bits
    types(call, 0, "F32")
    types(call, 1, "F32")
    contiguous(call, 0)
    rows_contiguous(call, 1)
    end, held = to.offset + _reach(4 * window.ne[0], window.ne, (to.nb1, to.nb2, to.nb3)), 4 * prod(target.ne)
    require(end <= held and prod(window.ne) <= prod(target.ne), f"the window ends at byte {end} of {held}")
    return ggml.ggml_set(call.context, *call.sources, *to)


def _get_rows(call: Call) -> Any:
    table, rows = call.declared
    types(call, 1, "I32")
    rows_contiguous(call, 0)
    fits = table.ne[2] == rows.ne[1] and table.ne[3] == rows.ne[2] and rows.ne[3] == 1
    require(fits, f"rows {rows.ne} of a table {table.ne}")
    return ggml.ggml_get_rows(call.context, *call.sources)


def _set_rows(call: Call) -> Any:
    table, rows, numbers = call.declared
    types(call, 0, "F32")
    types(call, 1, "F32")
    types(call, 2, "I32")
    contiguous(call, 0, 2)
    rows_contiguous(call, 1)
    fits = table.ne[0] == rows.ne[0] and table.ne[2:] == rows.ne[2:] and numbers.ne == (rows.ne[1], 1, 1, 1)
    require(fits, f"rows {rows.ne} at {numbers.ne} of a table {table.ne}")
    return ggml.ggml_set_rows(call.context, *call.sources)


def _binary(function: Any) -> Callable[[Call], Any]:
    def build(call: Call) -> Any:
        first, second = call.declared
        types(call, 0, *_FLOATS)
        types(call, 1, *_FLOATS)
        rows_contiguous(call, 0)
        _repeats(second, first.ne, f"{second.ne} does not repeat over {first.ne}")
        return function(call.context, *call.sources)

    return build


def _unary(function: Any) -> Callable[[Call], Any]:
    def build(call: Call) -> Any:
        types(call, 0, *_FLOATS)
        rows_contiguous(call, 0)
        return function(call.context, call.sources[0])

    return build


def _scale(call: Call) -> Any:
    scale: parameters.Scale = call.parameters
    nb, ne = _nb(call.sources[0]), call.declared[0].ne
    types(call, 0, "F32")
    rows_contiguous(call, 0)
    require(nb[2] == nb[1] * ne[1] and nb[3] == nb[2] * ne[2], "source 0 is not contiguous")
    return ggml.ggml_scale_bias(call.context, call.sources[0], scale.factor, scale.bias)


def _clamp(call: Call) -> Any:
    clamp: parameters.Clamp = call.parameters
    types(call, 0, *_FLOATS)
    # ggml's clamp writes into its source, which others may still read and which may be a mapped weight
    copy = ggml.ggml_cont(call.context, call.sources[0])
    return ggml.ggml_clamp(call.context, copy, clamp.min, clamp.max)


def _leaky_relu(call: Call) -> Any:
    leaky: parameters.LeakyRelu = call.parameters
    types(call, 0, "F32")
    contiguous(call, 0)
    return ggml.ggml_leaky_relu(call.context, call.sources[0], leaky.slope, False)


def _mul_mat(call: Call) -> Any:
    mul_mat: parameters.MulMat = call.parameters
    first, second = call.declared
    require(first.ne[0] == second.ne[0], f"rows of {first.ne[0]} against rows of {second.ne[0]}")
    require(
        second.ne[2] % first.ne[2] == 0 and second.ne[3] % first.ne[3] == 0,
        f"{first.ne} does not repeat over {second.ne}",
    )
    rows_contiguous(call, 0, 1)
    nb = _nb(call.sources[0])
    require(nb[0] <= nb[1], "source 0 is transposed")
    result = ggml.ggml_mul_mat(call.context, *call.sources)
    if mul_mat.prec == "F32":
        ggml.ggml_mul_mat_set_prec(result, _GGML_PREC_F32)
    return result


def _rope(call: Call) -> Any:
    x, positions, divisors = (declared.ne for declared in call.declared)
    types(call, 0, "F32")
    types(call, 1, "I32")
    types(call, 2, "F32")
    rows_contiguous(call, 0)
    contiguous(call, 1, 2)
    fits = x[0] % 2 == 0 and positions == (x[2], 1, 1, 1) and divisors == (x[0] // 2, 1, 1, 1)
    require(fits, f"positions {positions} and divisors {divisors} for {x}")
    mode = _ROPE_NEOX if call.parameters.halves else 0
    # a base of 1 leaves every angle to the divisors; no YaRN
    numbers = (x[0], mode, 0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0)
    return ggml.ggml_rope_ext(call.context, *call.sources, *numbers)


def _norm(function: Any) -> Callable[[Call], Any]:
    def build(call: Call) -> Any:
        types(call, 0, "F32")
        rows_contiguous(call, 0)
        require(all(eps >= 0 for eps in call.parameters), f"an eps of {call.parameters}")
        return function(call.context, call.sources[0], *call.parameters)

    return build


def _argmax(call: Call) -> Any:
    types(call, 0, "F32")
    contiguous(call, 0)
    require(call.declared[0].ne[2:] == (1, 1), f"rows of {call.declared[0].ne}")
    return ggml.ggml_argmax(call.context, call.sources[0])


def _argsort(call: Call) -> Any:
    argsort: parameters.Argsort = call.parameters
    types(call, 0, "F32")
    contiguous(call, 0)
    return ggml.ggml_argsort(call.context, call.sources[0], int(argsort.descending))


def _group_norm(call: Call) -> Any:
    norm: parameters.GroupNorm = call.parameters
    within((norm.groups,), least=1)
    channels = call.declared[0].ne[2]
    types(call, 0, "F32")
    contiguous(call, 0)
    require(channels % norm.groups == 0, f"{norm.groups} groups of {channels} channels")
    return ggml.ggml_group_norm(call.context, call.sources[0], norm.groups, norm.eps)


def _soft_max(call: Call) -> Any:
    scores = call.declared[0].ne
    types(call, 0, "F32")
    contiguous(call, 0)
    if len(call.sources) == 2:
        mask = call.declared[1].ne
        types(call, 1, "F32", "F16")
        contiguous(call, 1)
        fits = mask[0] == scores[0] and mask[1] >= scores[1] and not scores[2] % mask[2] and not scores[3] % mask[3]
        require(fits, f"a mask {mask} for scores {scores}")
    mask_tensor = call.sources[1] if len(call.sources) == 2 else None
    return ggml.ggml_soft_max_ext(call.context, call.sources[0], mask_tensor, call.parameters.scale, 0.0)


def _flash_attn(call: Call) -> Any:
    q, k, v = (declared.ne for declared in call.declared[:3])
    rows_contiguous(call, 0, 1, 2)
    types(call, 0, "F32")
    fits = q[0] == k[0] and k[1:3] == v[1:3] and not q[2] % k[2] and q[3] == k[3] == v[3]
    require(fits, f"queries {q}, keys {k}, values {v}")
    mask_tensor = None
    if len(call.sources) == 4:
        mask, mask_tensor = call.declared[3].ne, call.sources[3]
        types(call, 3, "F16")
        contiguous(call, 3)
        fits = mask[0] == k[1] and mask[1] >= q[1] and not q[2] % mask[2] and not q[3] % mask[3]
        require(fits, f"a mask {mask} for queries {q} and keys {k}")
    result = ggml.ggml_flash_attn_ext(call.context, *call.sources[:3], mask_tensor, call.parameters.scale, 0.0, 0.0)
    ggml.ggml_flash_attn_ext_set_prec(result, _GGML_PREC_F32)
    return result


def _upscale(call: Call) -> Any:
    upscale: parameters.Upscale = call.parameters
    mode = _UPSCALE_MODES.get(upscale.mode)
    types(call, 0, "F32")
    require(mode is not None, f"mode {upscale.mode!r}; there are {', '.join(_UPSCALE_MODES)}")
    return ggml.ggml_interpolate(call.context, call.sources[0], *call.tensor.ne, mode)


BUILDERS: dict[str, Callable[[Call], Any]] = {
    "view": _view,
    "reshape": _reshape,
    "permute": _permute,
    "cont": _cont,
    "repeat": _repeat,
    "cast": _cast,
    "concat": _concat,
    "pad": _pad,
    "set": _set,
    "get_rows": _get_rows,
    "set_rows": _set_rows,
    **{name: (_unary if row.sources == (1, 1) else _binary)(getattr(ggml, f"ggml_{name}"))
       for name, row in ops.OPERATIONS.items() if row.splittable and row.parameters is parameters.Nothing},
    **{name: _norm(getattr(ggml, f"ggml_{name}")) for name in ("norm", "rms_norm", "sum_rows", "mean")},
    "cumsum": _norm(ggml.ggml_cumsum),
    "argmax": _argmax,
    "argsort": _argsort,
    "scale": _scale,
    "clamp": _clamp,
    "leaky_relu": _leaky_relu,
    "mul_mat": _mul_mat,
    "rope": _rope,
    "group_norm": _group_norm,
    "soft_max": _soft_max,
    "flash_attn": _flash_attn,
    "conv_2d": conv_2d,
    "max_pool_2d": max_pool_2d,
    "conv_2d_dw": conv_2d_dw,
    "conv_3d": conv_3d,
    "upscale": _upscale,
}  # fmt: skip
