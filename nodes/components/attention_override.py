"""Attention as the one operation the engine knows, given to ComfyUI's modules without touching anything they share.

Which attention ComfyUI picks depends on the torch GPU, on flags and on free memory; a trace must hang on none of them.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    **_: Any,
) -> Tensor:
    """ComfyUI's attention interface (comfy/ldm/modules/attention.py) over scaled_dot_product_attention.

    q, k, v: [batch, tokens, heads * channels], or [batch, heads, tokens, channels] with skip_reshape.
    mask: added to the scores; [tokens, tokens], [batch, tokens, tokens] or [batch, heads, tokens, tokens].
    Returns [batch, tokens, heads * channels], or [batch, heads, tokens, channels] with skip_output_reshape.
    """
    if not skip_reshape:
        channels = q.shape[-1] // heads
        q, k, v = (x.reshape(x.shape[0], x.shape[1], -1, channels).transpose(1, 2) for x in (q, k, v))
    if mask is not None and mask.ndim == 2:
        mask = mask[None]
    if mask is not None and mask.ndim == 3:
        mask = mask[:, None]
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
    if skip_output_reshape:
        return out
    return out.transpose(1, 2).reshape(out.shape[0], out.shape[2], -1)  # [batch, tokens, heads * channels]


def override(_chosen: Any, *args: Any, **kwargs: Any) -> Tensor:
    """`attention` as transformer_options["optimized_attention_override"] is called."""
    return attention(*args, **kwargs)


def image_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Single-headed attention over the pixels of [batch, channels, height, width], as a VAE's AttnBlock calls it."""
    shape = q.shape
    q, k, v = (x.reshape(x.shape[0], 1, x.shape[1], -1).transpose(2, 3) for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v)  # [batch, 1, pixels, channels]
    return out.transpose(2, 3).reshape(shape)


def own_attention(module: torch.nn.Module) -> None:
    """Give one module instance a `forward` that finds `attention` where its class asks for one for the device.

    The function is a copy with globals of its own, so the class and every other instance stay as they are.
    Raises KeyError when the class no longer asks in this way.
    """
    forward = type(module).forward
    if "optimized_attention_for_device" not in forward.__globals__:
        raise KeyError(f"{type(module).__name__}.forward does not use optimized_attention_for_device")
    names = {**forward.__globals__, "optimized_attention_for_device": lambda *args, **kwargs: attention}
    copy = types.FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    module.forward = types.MethodType(copy, module)
