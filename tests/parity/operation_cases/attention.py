"""Attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .case import XY, Case, Inputs, heads

_GROUPED = {"x": (2, 6, 32), "y": (2, 10, 16), "z": (2, 10, 16)}
_SOME_KEYS = torch.tensor([[True, True, False, True, False, True], [True] * 5 + [False]])
_NO_KEYS = torch.tensor([[1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()  # the second query sees nothing


def _grouped(t: Inputs, **options: Any) -> Tensor:
    """4 heads of queries, 2 of keys and values."""
    key, value = (t[name].unflatten(-1, (2, 8)).transpose(1, 2) for name in ("y", "z"))
    return F.scaled_dot_product_attention(heads(t["x"]), key, value, enable_gqa=True, **options)


def _self(t: Inputs, mask: Tensor | None, **options: Any) -> Tensor:
    return F.scaled_dot_product_attention(heads(t["x"]), heads(t["y"]), heads(t["y"]), attn_mask=mask, **options)


def _many_heads(m: Any, t: Inputs) -> Tensor:
    weights = (m.w, m.b, None, None, False, 0.0, m.o, m.p)
    x = t["x"].transpose(0, 1)
    return F.multi_head_attention_forward(x, x, x, 32, 4, *weights, training=False, need_weights=False)[0]


CASES = (
    Case("attention", lambda m, t: F.scaled_dot_product_attention(heads(t["x"]), heads(t["y"]), heads(t["z"])),
         {"x": (2, 6, 32), "y": (2, 10, 32), "z": (2, 10, 32)}, outliers=False),
    Case("attention mask", lambda m, t: F.scaled_dot_product_attention(
        heads(t["x"]), heads(t["y"]), heads(t["y"]), attn_mask=t["mask"][None, None], scale=1.0
    ).transpose(1, 2).flatten(2), XY, host={"mask": torch.tril(torch.ones(6, 6)).bool()}, outliers=False),
    Case("attention bias", lambda m, t: F.scaled_dot_product_attention(
        heads(t["x"]), heads(t["x"]), heads(t["x"]), attn_mask=t["bias"] * 2
    ), {"x": (2, 6, 32), "bias": (1, 4, 6, 6)}, outliers=False),
    Case("attention causal", lambda m, t: _self(t, None, is_causal=True), XY, outliers=False),
    Case("attention causal, more keys", lambda m, t: _self(t, None, is_causal=True),
         {"x": (2, 6, 32), "y": (2, 10, 32)}, outliers=False),
    Case("attention causal, fewer keys", lambda m, t: _self(t, None, is_causal=True),
         {"x": (2, 6, 32), "y": (2, 3, 32)}, outliers=False),
    Case("attention grouped", lambda m, t: _grouped(t).transpose(1, 2).flatten(2), _GROUPED, outliers=False),
    Case("attention grouped, causal", lambda m, t: _grouped(t, is_causal=True), _GROUPED, outliers=False),
    Case("attention of one head of keys", lambda m, t: F.scaled_dot_product_attention(
        heads(t["x"]), t["y"][:, None], t["y"][:, None], enable_gqa=True
    ), {"x": (2, 6, 32), "y": (2, 10, 8)}, outliers=False),
    Case("attention mask of tokens", lambda m, t: _self(t, t["mask"][:, None, None]), XY, host={"mask": _SOME_KEYS},
         outliers=False),
    Case("attention mask of no keys", lambda m, t: _self(t, t["mask"][:, None, None]) + t["x"].sum(), XY,
         host={"mask": _NO_KEYS}, outliers=False),
    Case("attention mask of infinity", lambda m, t: _self(
        t, torch.zeros(2, 6).masked_fill(~t["mask"], float("-inf"))[:, None, None]
    ), XY, host={"mask": _NO_KEYS}, outliers=False),
    Case("attention mask of the device", lambda m, t: _self(t, t["z"] > 0.5), {**XY, "z": (2, 1, 6, 6)},
         outliers=False),
    Case("attention of three dimensions", lambda m, t: F.scaled_dot_product_attention(t["x"], t["y"], t["y"]),
         {"x": (6, 7, 16), "y": (6, 5, 16)}, outliers=False),
    Case("_scaled_dot_product_flash_attention_for_cpu", _many_heads, {"x": (2, 6, 32)},
         {"w": (96, 32), "b": (96,), "o": (32, 32), "p": (32,)}, outliers=False),
)  # fmt: skip
