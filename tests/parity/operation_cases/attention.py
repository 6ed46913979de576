"""Attention."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .case import XY, Case, heads

CASES = (
    Case("attention", lambda m, t: F.scaled_dot_product_attention(heads(t["x"]), heads(t["y"]), heads(t["z"])),
         {"x": (2, 6, 32), "y": (2, 10, 32), "z": (2, 10, 32)}, outliers=False),
    Case("attention mask", lambda m, t: F.scaled_dot_product_attention(
        heads(t["x"]), heads(t["y"]), heads(t["y"]), attn_mask=t["mask"][None, None], scale=1.0
    ).transpose(1, 2).flatten(2), XY, host={"mask": torch.tril(torch.ones(6, 6)).bool()}, outliers=False),
    Case("attention bias", lambda m, t: F.scaled_dot_product_attention(
        heads(t["x"]), heads(t["x"]), heads(t["x"]), attn_mask=t["bias"] * 2
    ), {"x": (2, 6, 32), "bias": (1, 4, 6, 6)}, outliers=False),
)  # fmt: skip
