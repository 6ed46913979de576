"""Decompositions of matrices."""

from __future__ import annotations

import torch

from .case import Case, X

TRIANGLE = torch.triu(torch.ones(6, 4)) * torch.tensor([1.0, -2.0, 3.0, -4.0])  # reflects nothing

CASES = (
    Case("qr", lambda m, t: t["x"] @ torch.linalg.qr(m.w)[0], X, {"w": (32, 20)}),
    Case("qr square", lambda m, t: (*torch.linalg.qr(m.w * 3), t["x"] * 2), X, {"w": (16, 16)}),
    Case("qr of few columns", lambda m, t: tuple(torch.linalg.qr(t["x"][0].T)), X, outliers=False),
    Case("qr of a triangle", lambda m, t: tuple(torch.linalg.qr(t["x"][:, :4] * 0 + t["triangle"])), {"x": (6, 32)},
         host={"triangle": TRIANGLE}),
    Case("qr of zeros", lambda m, t: tuple(torch.linalg.qr(t["x"][:, :4] * 0)), {"x": (6, 32)}),
)  # fmt: skip
