"""Operations that work element by element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .case import XY, Case, Inputs, X


def _timestep(m: Any, t: Inputs) -> Tensor:
    angles = t["t"][:, None] * torch.exp(torch.arange(4) * -0.5)[None]
    return t["x"] * torch.cat((angles.cos(), angles.sin()), -1)


CASES = (
    Case("add", lambda m, t: t["x"] + t["y"], XY),
    Case("add scaled", lambda m, t: torch.add(t["x"], t["y"], alpha=0.25), XY),
    Case("add number", lambda m, t: t["x"] + 3.5, X),
    Case("add broadcast first", lambda m, t: t["y"] + t["x"], {"x": (2, 6, 32), "y": (1, 32)}),
    Case("add transposed", lambda m, t: t["x"].transpose(1, 2) + t["y"].transpose(1, 2), XY),
    Case("add layouts", lambda m, t: t["x"].transpose(1, 2) + t["y"], {"x": (2, 6, 32), "y": (2, 32, 6)}),
    Case("add both repeated", lambda m, t: t["x"] + t["y"], {"x": (2, 1, 32), "y": (2, 6, 1)}),
    Case("add five dimensions", lambda m, t: t["x"] + t["y"], {"x": (2, 3, 2, 4, 5), "y": (2, 1, 2, 1, 5)}),
    Case("sub", lambda m, t: t["x"] - t["y"], XY),
    Case("sub repeated first", lambda m, t: t["y"] - t["x"], {"x": (2, 6, 32), "y": (1, 6, 1)}),
    Case("sub scaled", lambda m, t: torch.sub(t["x"], t["y"], alpha=0.5), XY),
    Case("rsub", lambda m, t: torch.rsub(t["x"], 1.0), X),
    Case("mul", lambda m, t: t["x"] * t["y"], {"x": (2, 6, 32), "y": (2, 1, 32)}, outliers=False),
    Case("mul slice", lambda m, t: t["x"][:, 1:4, 8:24] * t["y"][:, ::2, :16], XY, outliers=False),
    Case("mul parameter", lambda m, t: t["x"] * m.w, X, {"w": (6, 32)}),
    Case("div", lambda m, t: t["x"] / (t["y"].abs() + 1), XY),
    Case("div number", lambda m, t: t["x"] / 8, X),
    Case("div of number", lambda m, t: 2.0 / (t["x"].abs() + 1), X),
    Case("reciprocal", lambda m, t: torch.reciprocal(t["x"].abs() + 1), X),
    Case("addcmul", lambda m, t: torch.addcmul(t["y"], t["x"], t["z"]), {**XY, "z": (2, 1, 32)}, outliers=False),
    Case("addcmul scaled", lambda m, t: torch.addcmul(t["y"], t["x"], t["x"], value=0.5), XY, outliers=False),
    Case("neg", lambda m, t: -t["x"], X),
    Case("abs", lambda m, t: t["x"].abs(), X),
    Case("silu", lambda m, t: F.silu(t["x"]), X),
    Case("silu slice", lambda m, t: F.silu(t["x"][..., 8:24]), X),
    Case("sigmoid", lambda m, t: torch.sigmoid(t["x"]), X),
    Case("tanh", lambda m, t: torch.tanh(t["x"]), X),
    Case("relu", lambda m, t: F.relu(t["x"]), X),
    Case("leaky_relu", lambda m, t: F.leaky_relu(t["x"][..., 8:24], 0.2), X),
    Case("exp", lambda m, t: torch.exp(t["x"]), X, outliers=False),
    Case("log", lambda m, t: torch.log(t["x"].abs() + 0.1), X),
    Case("sqrt", lambda m, t: torch.sqrt(t["x"].abs()), X),
    Case("rsqrt", lambda m, t: torch.rsqrt(t["x"].abs() + 0.1), X),
    Case("sin", lambda m, t: torch.sin(t["x"]), X, outliers=False),
    Case("cos", lambda m, t: torch.cos(t["x"]), X, outliers=False),
    Case("pow", lambda m, t: t["x"] ** 2, X, outliers=False),
    Case("pow half", lambda m, t: t["x"].abs() ** 0.5, X),
    Case("pow one", lambda m, t: torch.pow(t["x"], 1), X),
    Case("clamp", lambda m, t: t["x"].clamp(-0.5, 0.75), X),
    Case("clamp_min", lambda m, t: torch.clamp_min(t["x"], 0.1), X),
    Case("clamp_max", lambda m, t: torch.clamp_max(t["x"], 0.1), X),
    Case("hardtanh", lambda m, t: F.hardtanh(t["x"]), X),
    Case("gelu", lambda m, t: F.gelu(t["x"], approximate="tanh"), X, gelu=True),
    Case("gelu slice", lambda m, t: F.gelu(t["x"][..., 8:24], approximate="tanh"), X, gelu=True),
    Case("gelu erf", lambda m, t: F.gelu(t["x"]), X, gelu=True),
    Case(
        "masked_fill", lambda m, t: t["x"].masked_fill(t["mask"], -3.0), X,
        host={"mask": torch.arange(32) % 3 == 0},
    ),
    Case("glu", lambda m, t: F.glu(t["x"], -1), X, outliers=False),
    Case("hardswish", lambda m, t: F.hardswish(t["x"] * 2, inplace=True), X, outliers=False),
    Case("host values", _timestep, {"x": (2, 8)}, host={"t": torch.tensor([0.25, 900.0])}),
)  # fmt: skip
