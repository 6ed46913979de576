"""The handler of attention: as matrix products and a softmax, or as flash attention for many tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...program.builder import LowerError
from ...trace.graph import Window
from ..host import on_host
from ..lowering import Lowering, Made, handler
from ..strides import Layout, Operand, binary, contiguous, contiguous_stride, rows_packed
from .elementwise import LARGEST, positive

_FLASH_BLOCK = 8  # ggml's Vulkan takes heads of a multiple of so many channels


@handler("scaled_dot_product_attention")
def attention(
    low: Lowering, out: Window, query: Window, key: Window, value: Window, attn_mask: Window | None = None,
    dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Made:  # fmt: skip
    """softmax(scale * query key^T + mask) value, all [batch, heads, tokens, channels] (Vaswani et al. 2017, eq. 1).

    is_causal: query i sees the keys up to i. enable_gqa: keys and values have fewer heads, each for several heads of
    queries that follow one another (Ainslie et al. 2023), which ggml's products and flash attention do by themselves.
    The first two dimensions may be missing.
    """
    if dropout_p or len(query.shape) > 4 or (is_causal and attn_mask is not None):
        raise LowerError(f"attention of {query.shape} with causal {is_causal}, dropout {dropout_p}")
    query, key, value = (_four_dimensions(x) for x in (query, key, value))
    heads = [x.shape[1] for x in (query, key, value)]
    same_batch = len({x.shape[0] for x in (query, key, value)}) == 1
    if any(heads[0] % n for n in heads) or not same_batch or (len(set(heads)) > 1 and not enable_gqa):
        raise LowerError(f"attention of {query.shape} to {key.shape} and {value.shape}")
    mask, seen = (_causal(low, query, key), None) if is_causal else _mask(low, attn_mask, query.shape[2])
    factor = query.shape[3] ** -0.5 if scale is None else scale
    scores = 4 * query.numel // query.shape[3] * key.shape[2]
    fits = heads[1] == heads[2] and not any(x.shape[3] % _FLASH_BLOCK for x in (key, value))
    if low.options.flash and scores > low.options.flash_bytes and fits:
        result = _flash(low, query, key, value, mask, factor)
    else:
        result = _by_products(low, query, key, value, mask, factor)
    if seen is not None:
        layout = Layout.of(result.shape, result.stride)
        result = Operand(binary(low.b, "mul", result, seen, layout), result.shape, result.stride)
    return replace(result, shape=out.shape, stride=result.stride[4 - len(out.shape) :])


@handler("_scaled_dot_product_flash_attention_for_cpu")
def attention_for_cpu(
    low: Lowering, out: Window, query: Window, key: Window, value: Window, dropout_p: float = 0.0,
    is_causal: bool = False, **options: Any,
) -> Made:  # fmt: skip
    """The same as torch decomposes it where a function of its own, such as multi_head_attention_forward, calls it."""
    return attention(low, out, query, key, value, dropout_p=dropout_p, is_causal=is_causal, **options)


def _four_dimensions(x: Window) -> Window:
    missing = 4 - len(x.shape)
    return replace(x, shape=(1,) * missing + x.shape, stride=(0,) * missing + x.stride)


def _causal(low: Lowering, query: Window, key: Window) -> int:
    """[tokens, keys]: 0 up to the diagonal, -3.4e38 after it."""
    return low.b.constant(np.triu(np.full((query.shape[2], key.shape[2]), -LARGEST, np.float32), 1))


def _mask(low: Lowering, mask: Window | None, tokens: int) -> tuple[int | None, Operand | None]:
    """The mask to add to scores, [batch or 1, heads or 1, tokens, keys], and [.., tokens or 1, 1]: 0 for no key at all.

    Where a boolean mask is False, or another one -inf, the former is -3.4e38, so that its softmax is finite; torch's
    result for a query that sees no key is 0, as the latter makes it, which is None where there is no such query.
    """
    if mask is None:
        return None, None
    if low.on_device(mask):
        x, seen = _device_mask(low, mask)
    else:
        x = low.host_computed("mask", _added, mask)
        seen = low.host_computed("seen", _seen, mask)
        if low.is_constant(mask) and bool((_added(low.value(mask)) > -LARGEST).any(-1).all()):
            seen = None
    shape = (*(1,) * (4 - len(mask.shape)), *mask.shape)
    x = x.broadcast((*shape[:2], tokens, shape[3]))
    return low.b.reshape(contiguous(low.b, x), x.shape), seen


@on_host
def _added(mask: torch.Tensor) -> torch.Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape).masked_fill_(~mask, -LARGEST)
    return mask.float().clamp_min(-LARGEST)


@on_host
def _seen(mask: torch.Tensor) -> torch.Tensor:
    return (_added(mask) > -LARGEST).any(-1, keepdim=True).float()


def _device_mask(low: Lowering, mask: Window) -> tuple[Operand, Operand | None]:
    x = low.operand(mask)
    if mask.dtype != torch.bool:
        return x, None
    b = low.b
    flags = b.reshape(contiguous(b, x), mask.shape)
    added = Operand(b.op("scale", flags, factor=LARGEST, bias=-LARGEST), mask.shape, contiguous_stride(mask.shape))
    shape = (*mask.shape[:-1], 1)
    return added, Operand(positive(b, b.op("sum_rows", flags)), shape, contiguous_stride(shape))


def _heads(low: Lowering, x: Window) -> int:
    """[batch, heads, tokens, channels] with contiguous channels."""
    operand = low.operand(x)
    dims = list(zip(operand.shape, operand.stride, strict=True))
    if dims[-1][1] == 1 and all(step for n, step in dims if n != 1):
        return low.b.window(operand.tensor, dims, operand.offset)
    return low.b.reshape(contiguous(low.b, operand), x.shape)


def _by_products(low: Lowering, query: Window, key: Window, value: Window, mask: int | None, factor: float) -> Operand:
    b = low.b
    left, right = (low.scale_down(rows_packed(b, _heads(low, x))) for x in (key, query))
    scores = b.op("mul_mat", left, right)  # [batch, heads, tokens, keys]
    factor *= low.options.activation_scale**2  # instead of restoring the scores
    weights = b.op("soft_max", scores, *[m for m in (mask,) if m is not None], scale=factor)
    transposed = low.operand(value).permuted((0, 1, 3, 2))  # [batch, heads, channels, keys]
    columns = b.reshape(contiguous(b, transposed), transposed.shape)
    result = b.op("mul_mat", low.scale_down(columns), weights)
    shape = (*query.shape[:3], value.shape[3])
    return Operand(low.unscale(result), shape, contiguous_stride(shape))


def _flash(low: Lowering, query: Window, key: Window, value: Window, mask: int | None, factor: float) -> Operand:
    b = low.b
    batch, heads, tokens, _ = query.shape
    kind = low.options.kv_type
    key_value = [_heads(low, x) if kind == "F32" else b.op("cast", _heads(low, x), type=kind) for x in (key, value)]
    masks = [b.op("cast", m, type="F16") for m in (mask,) if m is not None]
    result = b.op("flash_attn", _heads(low, query), *key_value, *masks, scale=factor)
    shape = (batch, tokens, heads, value.shape[3])
    return Operand(result, shape, contiguous_stride(shape)).permuted((0, 2, 1, 3))
