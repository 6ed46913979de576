"""Handlers of attention and of rotary position embeddings."""

from __future__ import annotations

import torch

from ..trace.graph import Window
from .elementwise import Layout, binary
from .geometry import Operand, contiguous_stride, dense, packed
from .lowering import LowerError, Lowering, handler

_LARGEST = 3.4028234e38


@handler("scaled_dot_product_attention")
def attention(
    low: Lowering, out: Window, query: Window, key: Window, value: Window, attn_mask: Window | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> int:  # fmt: skip
    """softmax(scale * query key^T + mask) value, all [batch, heads, tokens, channels] (Vaswani et al. 2017, eq. 1)."""
    if is_causal or enable_gqa or dropout_p:
        raise LowerError(f"attention with causal {is_causal}, grouped queries {enable_gqa}, dropout {dropout_p}")
    batch, heads, tokens, channels = query.shape
    factor = channels**-0.5 if scale is None else scale
    scores = 4 * batch * heads * tokens * key.shape[2]
    if low.options.flash and scores > low.options.flash_bytes:
        return _flash(low, out, query, key, value, attn_mask, factor)
    return _plain(low, out, query, key, value, attn_mask, factor)


def _mask(low: Lowering, mask: Window | None, tokens: int) -> int | None:
    """What is added to the scores, [batch or 1, heads or 1, tokens, keys]; a boolean mask says what takes part."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        x = low.computed("mask", lambda m: torch.zeros(m.shape).masked_fill_(~m, -_LARGEST), mask)
    else:
        x = low.operand(mask)
    shape = (*(1,) * (4 - len(mask.shape)), *mask.shape)
    x = x.broadcast((*shape[:2], tokens, shape[3]))
    return low.b.reshape(dense(low.b, x), tuple(reversed(x.shape)))


def _heads(low: Lowering, x: Window) -> int:
    """[batch, heads, tokens, channels] with contiguous channels."""
    operand = low.operand(x)
    strides = [s for n, s in zip(x.shape, x.stride, strict=True) if n != 1]
    if x.stride[-1] == 1 and all(strides):
        dims = list(zip(x.shape, x.stride, strict=True))
        return low.b.window(operand.tensor, list(reversed(dims)), operand.offset)
    return low.b.reshape(dense(low.b, operand), tuple(reversed(x.shape)))


def _plain(
    low: Lowering, out: Window, query: Window, key: Window, value: Window, mask: Window | None, factor: float
) -> int:
    b = low.b
    batch, heads, tokens, _ = query.shape
    keys = key.shape[2]
    left, right = (low.reduced(packed(b, _heads(low, x))) for x in (key, query))
    scores = b.op("mul_mat", left, right, ne=(keys, tokens, heads, batch), parameters=("F32",))
    factor *= low.options.activation_scale**2  # instead of restoring the scores
    masks = [m for m in (_mask(low, mask, tokens),) if m is not None]
    weights = b.op("soft_max", scores, *masks, ne=b[scores].ne, parameters=(factor,))
    columns = low.operand(value).permuted((0, 1, 3, 2))
    transposed = b.reshape(dense(b, columns), (keys, value.shape[3], heads, batch))
    ne = (value.shape[3], tokens, heads, batch)
    result = b.op("mul_mat", low.reduced(transposed), weights, ne=ne, parameters=("F32",))
    return low.natural(low.restored(result), out)


def _flash(
    low: Lowering, out: Window, query: Window, key: Window, value: Window, mask: Window | None, factor: float
) -> int:
    b = low.b
    batch, heads, tokens, _ = query.shape
    kind = low.options.kv_type
    key_value = [
        _heads(low, x) if kind == "F32" else b.cast(_heads(low, x), kind) for x in (key, value)
    ]
    masks = [b.cast(m, "F16") for m in (_mask(low, mask, tokens),) if m is not None]
    ne = (value.shape[3], heads, tokens, batch)
    result = b.op("flash_attn", _heads(low, query), *key_value, *masks, ne=ne, parameters=(factor,))
    shape = (batch, tokens, heads, value.shape[3])
    whole = Operand(result, shape, contiguous_stride(shape)).permuted((0, 2, 1, 3))
    return dense(b, whole.permuted(low.layout(out).order))


@handler("comfy_kitchen.apply_rope1.default")
def rope(low: Lowering, out: Window, x: Window, table: Window) -> int:
    """Rotate pairs of channels (Su et al. 2021, section 3.2.2): out[2i + r] = f[i, r, 0] x[2i] + f[i, r, 1] x[2i + 1].

    x: [batch, heads, tokens, channels]; table: [batch or 1, heads or 1, tokens, channels / 2, 2, 2], from the host.
    """
    tokens = x.shape[2]

    def own(f: torch.Tensor) -> torch.Tensor:
        return torch.stack((f[..., 0, 0], f[..., 1, 1]), -1).flatten(-2)[..., :tokens, :].float()

    def other(f: torch.Tensor) -> torch.Tensor:
        return torch.stack((f[..., 0, 1], f[..., 1, 0]), -1).flatten(-2)[..., :tokens, :].float()

    b = low.b
    stride = contiguous_stride(x.shape)
    source = dense(b, low.operand(x))
    pairs = x.numel // 2
    odd, even = (b.window(source, [(1, 1), (pairs, 2)], offset) for offset in (1, 0))
    swapped = b.op("concat", odd, even, ne=(2, pairs), parameters=(0,))
    layout = Layout.of(x.shape, stride)
    own_factor = low.computed(("rope own", tokens), own, table)
    other_factor = low.computed(("rope other", tokens), other, table)
    turned = binary(b, "mul", Operand(source, x.shape, stride), own_factor, layout)
    crossed = binary(b, "mul", Operand(swapped, x.shape, stride), other_factor, layout)
    result = b.op("add", b.reshape(turned, (x.numel,)), b.reshape(crossed, (x.numel,)), ne=(x.numel,))
    return low.natural(result, out)


@handler("comfy_kitchen.apply_rope.default")
def rope_both(low: Lowering, out: Window, query: Window, key: Window, table: Window) -> tuple[int, int]:
    """Rotate queries and keys by the same table."""
    other = low.output(1)
    return rope(low, out, query, table), rope(low, other, key, table)


