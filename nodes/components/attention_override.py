"""Attention as the one operation the engine knows, for ComfyUI's modules while one of ours calls them.

Which attention ComfyUI picks depends on the torch GPU, on flags and on free memory; a trace must hang on none of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import comfy.ldm.modules.attention as core_attention
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
        q, k, v = (x.flatten(2) for x in (q, k, v))  # core's takes heads as a dimension of their own too
        # core's view: where a node has cut the queries into tiles, keys and values are cut into as many runs of tokens
        k, v = (x if x.shape[0] == q.shape[0] else x.reshape(q.shape[0], -1, x.shape[-1]) for x in (k, v))
        q, k, v = (x.reshape(*x.shape[:2], x.shape[2] // channels, channels).transpose(1, 2) for x in (q, k, v))
    if mask is not None and mask.ndim == 2:
        mask = mask[None]
    if mask is not None and mask.ndim == 3:
        mask = mask[:, None]
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
    if skip_output_reshape:
        return out
    return out.transpose(1, 2).reshape(out.shape[0], out.shape[2], -1)  # [batch, tokens, heads * channels]


def image_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Single-headed attention over the pixels of [batch, channels, height, width], as a VAE's AttnBlock calls it."""
    shape = q.shape
    q, k, v = (x.reshape(x.shape[0], 1, x.shape[1], -1).transpose(2, 3) for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v)  # [batch, 1, pixels, channels]
    return out.transpose(2, 3).reshape(shape)


_active: ContextVar[bool] = ContextVar("active", default=False)


@contextmanager
def own_attention() -> Iterator[None]:
    """Every attention that a module of ComfyUI chooses is `attention`, in this thread, until this is left."""
    attach()
    before = _active.set(True)
    try:
        yield
    finally:
        _active.reset(before)


@functools.cache
def attach() -> None:
    """Make ComfyUI's attentions ask whether `own_attention` is active.

    wrap_attn (comfy/ldm/modules/attention.py) keeps the function that it wraps in a cell, which is reached under
    whatever name a module has imported it.
    """
    for name in dir(core_attention):
        wrapper = getattr(core_attention, name)
        code = getattr(wrapper, "__code__", None)
        if name.startswith("attention") and code is not None and "func" in code.co_freevars:
            cell = wrapper.__closure__[code.co_freevars.index("func")]
            cell.cell_contents = _chosen(cell.cell_contents)
            if contained := getattr(wrapper, "container_function", None):  # ComfyUI after 0.30
                wrapper.container_function = _chosen(contained, _taken)


def _chosen(theirs: Callable[..., Tensor], ours: Callable[..., Tensor] | None = None) -> Callable[..., Tensor]:
    @functools.wraps(theirs)
    def choose(*args: Any, **kwargs: Any) -> Tensor:
        return ((ours or attention) if _active.get() else theirs)(*args, **kwargs)

    return choose


def _taken(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> Tensor:
    """`attention` of tensors in core's containers, from which each is taken once."""
    return attention(q.take(), k.take(), v.take(), *args, **kwargs)
