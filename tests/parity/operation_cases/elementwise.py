"""Operations that work element by element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .case import IMAGE, XY, Case, Inputs, X


def _timestep(m: Any, t: Inputs) -> Tensor:
    angles = t["t"][:, None] * torch.exp(torch.arange(4) * -0.5)[None]
    return t["x"] * torch.cat((angles.cos(), angles.sin()), -1)


def _add_over(m: Any, t: Inputs) -> Tensor:
    """Sums that are written over one of their parts, and into a part of a tensor."""
    x = t["x"] * 2.0
    torch.add(t["y"], x, out=x)
    torch.add(x[:, :3], t["y"][:, :3], out=x[:, 3:])
    return x


CASES = (
    Case("add", lambda m, t: t["x"] + t["y"], XY),
    Case("add scaled", lambda m, t: torch.add(t["x"], t["y"], alpha=0.25), XY),
    Case("add over", _add_over, XY),
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
    Case("pow none", lambda m, t: torch.pow(t["x"], 0) + t["x"], X),
    Case("pow three", lambda m, t: t["x"] ** 3, X, outliers=False),
    Case("pow seven", lambda m, t: t["x"] ** 7, X, outliers=False),
    Case("pow minus two", lambda m, t: (t["x"].abs() + 0.5) ** -2, X),
    Case("pow fraction", lambda m, t: t["x"].abs() ** 2.4, X, outliers=False),
    Case("pow of a number", lambda m, t: 10000.0 ** t["x"].clamp(-1, 1), X),
    Case("pow of tensors", lambda m, t: (t["x"].abs() + 0.1) ** t["y"].clamp(-2, 2), XY),
    Case("lerp", lambda m, t: torch.lerp(t["x"], t["y"][:, :1], 0.3), XY),
    Case("lerp tensor", lambda m, t: torch.lerp(t["x"], t["y"], t["y"].sigmoid()), XY),
    Case("tan", lambda m, t: torch.tan(t["x"] * 0.3), X, outliers=False),
    Case("log2", lambda m, t: torch.log2(t["x"].abs() + 0.1), X),
    Case("expm1", lambda m, t: torch.expm1(t["x"]), X, outliers=False),
    Case("softplus", lambda m, t: F.softplus(t["x"] * 5), X),
    Case("softplus slice", lambda m, t: F.softplus(t["x"][..., 8:24], 2.0), X),
    Case("mish", lambda m, t: F.mish(t["x"] * 3), X),
    Case("elu", lambda m, t: F.elu(t["x"][..., 3:]), X),
    Case("selu", lambda m, t: F.selu(t["x"]), X),
    Case("celu", lambda m, t: F.celu(t["x"], 0.7), X),
    Case("_prelu_kernel", lambda m, t: F.prelu(t["x"], m.w), IMAGE, {"w": (32,)}),
    Case("relu6", lambda m, t: F.relu6(t["x"] * 5), X),
    Case("hardsigmoid", lambda m, t: F.hardsigmoid(t["x"] * 2), X),
    Case("log_sigmoid_forward", lambda m, t: F.logsigmoid(t["x"]), X),
    Case("square", lambda m, t: torch.square(t["x"]), X, outliers=False),
    Case("tril", lambda m, t: t["x"].tril(2) + t["x"].triu(-3), {"x": (2, 32, 32)}),
    Case("clamp", lambda m, t: t["x"].clamp(-0.5, 0.75), X),
    Case("clamp_min", lambda m, t: torch.clamp_min(t["x"], 0.1), X),
    Case("clamp_max", lambda m, t: torch.clamp_max(t["x"], 0.1), X),
    Case("hardtanh", lambda m, t: F.hardtanh(t["x"]), X),
    Case("gelu", lambda m, t: F.gelu(t["x"], approximate="tanh"), X, gelu=True),
    Case("gelu slice", lambda m, t: F.gelu(t["x"][..., 8:24], approximate="tanh"), X, gelu=True),
    Case("gelu erf", lambda m, t: F.gelu(t["x"]), X, gelu=True),
    Case("glu", lambda m, t: F.glu(t["x"], -1), X, outliers=False),
    Case("hardswish", lambda m, t: F.hardswish(t["x"] * 2, inplace=True), X, outliers=False),
    Case("host values", _timestep, {"x": (2, 8)}, host={"t": torch.tensor([0.25, 900.0])}),
)  # fmt: skip
