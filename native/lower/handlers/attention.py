"""The handler of attention: as matrix products and a softmax, or as flash attention for many tokens."""

from __future__ import annotations

import torch

from ...program.builder import LowerError
from ...trace.graph import Window
from ..lowering import Lowering, Made, handler
from ..strides import Operand, contiguous, contiguous_stride, rows_packed

_LARGEST = 3.4028234e38


@handler("scaled_dot_product_attention")
def attention(
    low: Lowering, out: Window, query: Window, key: Window, value: Window, attn_mask: Window | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Made:  # fmt: skip
    """softmax(scale * query key^T + mask) value, all [batch, heads, tokens, channels] (Vaswani et al. 2017, eq. 1)."""
    if is_causal or enable_gqa or dropout_p:
        raise LowerError(f"attention with causal {is_causal}, grouped queries {enable_gqa}, dropout {dropout_p}")
    batch, heads, tokens, channels = query.shape
    factor = channels**-0.5 if scale is None else scale
    scores = 4 * batch * heads * tokens * key.shape[2]
    if low.options.flash and scores > low.options.flash_bytes:
        return _flash(low, query, key, value, attn_mask, factor)
    return _by_products(low, out, query, key, value, attn_mask, factor)


def _mask(low: Lowering, mask: Window | None, tokens: int) -> int | None:
    """The mask to add to scores, [batch or 1, heads or 1, tokens, keys]; where a boolean one is False, -3.4e38."""
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        x = low.host_computed("mask", lambda m: torch.zeros(m.shape).masked_fill_(~m, -_LARGEST), mask)
    else:
        x = low.operand(mask)
    shape = (*(1,) * (4 - len(mask.shape)), *mask.shape)
    x = x.broadcast((*shape[:2], tokens, shape[3]))
    return low.b.reshape(contiguous(low.b, x), x.shape)


def _heads(low: Lowering, x: Window) -> int:
    """[batch, heads, tokens, channels] with contiguous channels."""
    operand = low.operand(x)
    dims = list(zip(operand.shape, operand.stride, strict=True))
    if dims[-1][1] == 1 and all(step for n, step in dims if n != 1):
        return low.b.window(operand.tensor, dims, operand.offset)
    return low.b.reshape(contiguous(low.b, operand), x.shape)


def _by_products(
    low: Lowering, out: Window, query: Window, key: Window, value: Window, mask: Window | None, factor: float
) -> int:
    b = low.b
    left, right = (low.scale_down(rows_packed(b, _heads(low, x))) for x in (key, query))
    scores = b.op("mul_mat", left, right)  # [batch, heads, tokens, keys]
    factor *= low.options.activation_scale**2  # instead of restoring the scores
    masks = [m for m in (_mask(low, mask, query.shape[2]),) if m is not None]
    weights = b.op("soft_max", scores, *masks, scale=factor)
    transposed = low.operand(value).permuted((0, 1, 3, 2))  # [batch, heads, channels, keys]
    columns = b.reshape(contiguous(b, transposed), transposed.shape)
    result = b.op("mul_mat", low.scale_down(columns), weights)  # [batch, heads, tokens, channels]
    return low.to_layout(low.unscale(result), out)


def _flash(low: Lowering, query: Window, key: Window, value: Window, mask: Window | None, factor: float) -> Operand:
    b = low.b
    batch, heads, tokens, _ = query.shape
    kind = low.options.kv_type
    key_value = [_heads(low, x) if kind == "F32" else b.op("cast", _heads(low, x), type=kind) for x in (key, value)]
    masks = [b.op("cast", m, type="F16") for m in (_mask(low, mask, tokens),) if m is not None]
    result = b.op("flash_attn", _heads(low, query), *key_value, *masks, scale=factor)
    shape = (batch, tokens, heads, value.shape[3])
    return Operand(result, shape, contiguous_stride(shape)).permuted((0, 2, 1, 3))
