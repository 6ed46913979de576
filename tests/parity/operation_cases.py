"""At least one small function of torch for every operation that has a handler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A function of a module with parameters of these shapes, and the shapes of its inputs.

    host: inputs that are not random: ids, masks, tables. gelu: GELU takes part. outliers: results are also right
    when some inputs are as large as 1e5.
    """

    name: str
    function: Callable[[Any, Inputs], Any]
    shapes: dict[str, tuple[int, ...]]
    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)
    host: Inputs = field(default_factory=dict)
    gelu: bool = False
    outliers: bool = True


class Parameters(torch.nn.Module):
    """A module of parameters and nothing else."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], device: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        for name, shape in shapes.items():
            values = torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 1.0)
            self.register_parameter(name, torch.nn.Parameter(values.to(device), requires_grad=False))


def _in_place(m: Any, t: Inputs) -> Tensor:
    x = t["x"] * 1.5
    x[:, 2:5] += t["y"]
    x.mul_(0.5)
    return x


def _in_place_window(m: Any, t: Inputs) -> Tensor:
    x = torch.zeros_like(t["x"])
    x[:, :, 1:4, 2:5] = t["x"][:, :, 1:4, 2:5] * 2
    x[:, :, 0] = t["x"][:, :, 1]
    return x + t["x"]


def _heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (4, -1)).transpose(1, 2)


def _rope_table(tokens: int, channels: int, first: float = 0.0) -> Tensor:
    angle = (torch.arange(tokens)[:, None] + first) * torch.linspace(1, 0.01, channels // 2)
    return _rotations(angle)


def _rotations(angle: Tensor) -> Tensor:
    rotation = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), -1)
    return rotation.unflatten(-1, (2, 2))[None, None]


def _rope(m: Any, t: Inputs) -> Tensor:
    return torch.ops.comfy_kitchen.apply_rope1(_heads(t["x"]), _rope_table(6, 8).to(t["x"].device))


def _rope_axes(m: Any, t: Inputs) -> Tensor:
    """As FLUX.1: pairs that never rotate, and pictures' rows and columns."""
    angle = torch.zeros(6, 4)
    angle[:, 1:3] = (torch.arange(6) // 3)[:, None] * torch.tensor([1.0, 0.03])
    angle[:, 3] = torch.arange(6) % 3 * 0.7
    return torch.ops.comfy_kitchen.apply_rope1(_heads(t["x"]), _rotations(angle).to(t["x"].device))


def _rope_normed(m: Any, t: Inputs) -> Tensor:
    """Rope of normed heads [batch, heads, tokens, width], then concatenation, slices and flattening."""
    x, y = (F.rms_norm(_heads(t[name]), (8,), m.w, 1e-6) for name in ("x", "y"))
    joined = torch.ops.comfy_kitchen.apply_rope1(torch.cat((x, y), 2), _rope_table(9, 8).to(x.device))
    return torch.cat((joined[:, 1:3, 2:].transpose(1, 2).flatten(2), joined[:, 2:, 2:, :].flatten(1, 2)[:, :7, :]), -1)


def _rope_both(m: Any, t: Inputs) -> Any:
    return torch.ops.comfy_kitchen.apply_rope(_heads(t["x"]), _heads(t["y"]), _rope_table(6, 8).to(t["x"].device))


def _timestep(m: Any, t: Inputs) -> Tensor:
    angles = t["t"][:, None] * torch.exp(torch.arange(4) * -0.5)[None]
    return t["x"] * torch.cat((angles.cos(), angles.sin()), -1)


X = {"x": (2, 6, 32)}
XY = {"x": (2, 6, 32), "y": (2, 6, 32)}
IMAGE = {"x": (2, 32, 6, 8)}

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
    Case("clone", lambda m, t: t["x"].transpose(1, 2).clone(memory_format=torch.contiguous_format), X),
    Case("contiguous", lambda m, t: t["x"].permute(2, 0, 1).contiguous() * 2, X),
    Case("reshape copies", lambda m, t: t["x"].transpose(1, 2).reshape(2, -1) * 1.5, X),
    Case("_unsafe_view", lambda m, t: torch.einsum("bik,bjk->bij", t["x"], t["y"]), XY),
    Case("to", lambda m, t: t["x"].double().float(), X),
    Case("fill", lambda m, t: (t["x"] * 1).fill_(2.5) + t["x"], X),
    Case("zero", lambda m, t: (t["x"] * 1).zero_() + t["x"], X),
    Case("in place", _in_place, {"x": (2, 8, 32), "y": (2, 3, 32)}),
    Case("in place window", _in_place_window, IMAGE),
    Case("patches", lambda m, t: t["x"].unflatten(3, (4, 2)).unflatten(2, (3, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3)
         .flatten(1, 2), IMAGE),
    Case("cat tokens", lambda m, t: torch.cat((t["x"], t["y"]), 1), {"x": (2, 6, 32), "y": (2, 3, 32)}),
    Case("cat channels", lambda m, t: torch.cat((t["x"][..., :8], t["y"]), -1), {"x": (2, 6, 32), "y": (2, 6, 24)}),
    Case("cat heads", lambda m, t: torch.cat((_heads(t["x"]), _heads(t["y"])), 2), {"x": (2, 6, 32), "y": (2, 3, 32)}),
    Case("cat one", lambda m, t: torch.cat((t["x"][:, :1], t["y"]), 1), {"x": (2, 6, 32), "y": (2, 3, 32)}),
    Case("cat alone", lambda m, t: torch.cat((t["x"][:, 1:4],), 1) * 2, X),
    Case("cat transposed", lambda m, t: torch.cat((t["x"].transpose(1, 2), t["y"].transpose(1, 2)), 2)[:, 3:, 1:] * 2,
         {"x": (2, 6, 32), "y": (2, 3, 32)}),
    Case("cat three", lambda m, t: torch.cat((t["x"], t["x"] * 2, t["x"]), 0), X),
    Case("stack", lambda m, t: torch.stack((t["x"], t["y"]), 2), XY),
    Case("repeat", lambda m, t: t["x"].repeat(2, 1, 3), X),
    Case("expand", lambda m, t: t["x"][:, :1].expand(2, 6, 32).reshape(-1, 32) * 2, X),
    Case("constant_pad_nd", lambda m, t: F.pad(t["x"], (0, 1, 2, 0)), IMAGE),
    Case("circular pad", lambda m, t: F.pad(t["x"], (0, 1, 0, 1), mode="circular"), IMAGE),
    Case("upsample_nearest2d", lambda m, t: F.interpolate(t["x"], scale_factor=2.0), IMAGE),
    Case("nearest-exact", lambda m, t: F.interpolate(t["x"], scale_factor=2.0, mode="nearest-exact"), IMAGE),
    Case("embedding", lambda m, t: F.embedding(t["ids"], m.w), {}, {"w": (20, 32)},
         host={"ids": torch.tensor([[3, 19, 0], [7, 7, 2]])}, outliers=False),
    Case("index", lambda m, t: t["x"][t["a"], t["b"]], X, host={"a": torch.tensor([0, 1]), "b": torch.tensor([5, -1])}),
    Case("linear", lambda m, t: F.linear(t["x"], m.w, m.b), X, {"w": (48, 32), "b": (48,)}),
    Case("linear slice", lambda m, t: F.linear(t["x"][:, 2:], m.w), X, {"w": (48, 32)}),
    Case("linear vector", lambda m, t: F.linear(t["x"], m.w, m.b), {"x": (2, 32)}, {"w": (48, 32), "b": (48,)}),
    Case("linear part", lambda m, t: F.linear(t["x"], m.w[16:]), X, {"w": (48, 32)}),
    Case("mm", lambda m, t: torch.mm(t["x"][0], m.w), X, {"w": (32, 48)}),
    Case("addmm", lambda m, t: torch.addmm(m.b, t["x"][0], m.w), X, {"w": (32, 48), "b": (48,)}),
    Case("bmm", lambda m, t: torch.bmm(t["x"], t["y"].transpose(1, 2)), XY),
    Case("matmul four", lambda m, t: _heads(t["x"]) @ _heads(t["y"]).transpose(-1, -2), XY),
    Case("convolution", lambda m, t: F.conv2d(t["x"], m.w, m.b, padding=1), IMAGE, {"w": (16, 32, 3, 3), "b": (16,)}),
    Case("convolution stride", lambda m, t: F.conv2d(t["x"], m.w, stride=2), IMAGE, {"w": (16, 32, 3, 3)}),
    Case("convolution 1x1", lambda m, t: F.conv2d(t["x"], m.w, m.b), IMAGE, {"w": (16, 32, 1, 1), "b": (16,)}),
    Case("layer_norm", lambda m, t: F.layer_norm(t["x"], (32,), m.w, m.b, 1e-6), X, {"w": (32,), "b": (32,)}),
    Case("layer_norm plain", lambda m, t: F.layer_norm(t["x"][:, 1:], (32,), eps=1e-6), X),
    Case("rms_norm", lambda m, t: F.rms_norm(_heads(t["x"]), (8,), m.w, 1e-6), X, {"w": (8,)}),
    Case("rms_norm pattern", lambda m, t: m.w * (t["x"] * torch.rsqrt(t["x"].pow(2).mean(-1, keepdim=True) + 1e-6)), X,
         {"w": (32,)}),
    Case("group_norm", lambda m, t: F.group_norm(t["x"], 8, m.w, m.b, 1e-6), IMAGE, {"w": (32,), "b": (32,)}),
    Case("softmax", lambda m, t: torch.softmax(t["x"], -1), X),
    Case("mean", lambda m, t: t["x"].mean((1, 2)), X),
    Case("mean last", lambda m, t: t["x"].mean(-1, keepdim=True) + t["x"], X),
    Case("sum", lambda m, t: t["x"].sum(1), X),
    Case("attention", lambda m, t: F.scaled_dot_product_attention(_heads(t["x"]), _heads(t["y"]), _heads(t["z"])),
         {"x": (2, 6, 32), "y": (2, 10, 32), "z": (2, 10, 32)}, outliers=False),
    Case("attention mask", lambda m, t: F.scaled_dot_product_attention(
        _heads(t["x"]), _heads(t["y"]), _heads(t["y"]), attn_mask=t["mask"][None, None], scale=1.0
    ).transpose(1, 2).flatten(2), XY, host={"mask": torch.tril(torch.ones(6, 6)).bool()}, outliers=False),
    Case("attention bias", lambda m, t: F.scaled_dot_product_attention(
        _heads(t["x"]), _heads(t["x"]), _heads(t["x"]), attn_mask=t["bias"] * 2
    ), {"x": (2, 6, 32), "bias": (1, 4, 6, 6)}, outliers=False),
    Case("rope", _rope, X),
    Case("rope by table", lambda m, t: torch.ops.comfy_kitchen.apply_rope1(
        _heads(t["x"]), _rope_table(6, 8, 2.5).to(t["x"].device)), X),
    Case("rope of two axes", _rope_axes, X),
    Case("rope of norms", _rope_normed, {"x": (2, 6, 32), "y": (2, 3, 32)}, {"w": (8,)}),
    Case("rope transposed", lambda m, t: torch.ops.comfy_kitchen.apply_rope1(
        t["x"].transpose(2, 3), _rope_table(6, 8).to(t["x"].device)), {"x": (2, 4, 8, 6)}),
    Case("rope both", _rope_both, XY),
    # by torch's decompositions
    Case("glu", lambda m, t: F.glu(t["x"], -1), X, outliers=False),
    Case("hardswish", lambda m, t: F.hardswish(t["x"] * 2, inplace=True), X, outliers=False),
    Case("pixel_shuffle", lambda m, t: F.pixel_shuffle(t["x"], 4) * 2, IMAGE),
    Case("pixel_unshuffle", lambda m, t: F.pixel_unshuffle(t["x"], 2), IMAGE),
    Case("linalg_vector_norm", lambda m, t: F.normalize(t["x"], dim=1), IMAGE, outliers=False),
    Case("baddbmm", lambda m, t: torch.baddbmm(t["y"], t["x"], t["z"], beta=0.5), {**XY, "z": (2, 32, 32)},
         outliers=False),
    Case("host values", _timestep, {"x": (2, 8)}, host={"t": torch.tensor([0.25, 900.0])}),
)  # fmt: skip
