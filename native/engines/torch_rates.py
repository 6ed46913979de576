"""Measures how fast torch computes on the CPU, by the kinds of work of ggml's programs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from time import perf_counter, thread_time
from typing import Any

import torch
from torch.nn.functional import conv2d, gelu, interpolate, layer_norm, linear, scaled_dot_product_attention, silu

from ..placement import CPU
from ..planning.rates import Rates
from ..threads import wanted_threads
from ..weights import WeightSet
from .shortest import shortest_call
from .torch_cpu import TorchModel

_AGAIN = 9  # times in one run
_F32 = 4  # bytes
Tensors = dict[str, torch.Tensor]


def _again(function: Callable[[torch.Tensor], torch.Tensor], count: int, _: Any, tensors: Tensors) -> torch.Tensor:
    for _ in range(count):
        made = function(tensors["x"])
    return made[:1]


class TorchBench:
    """Torch's engine, and the rates that were measured of it."""

    def __init__(self, interrupted: Callable[[], bool]) -> None:
        self.points: dict[str, list[tuple[float, float]]] = {}
        self._interrupted = interrupted
        self._call = 0.0
        x = torch.ones(64)
        self._call = self._seconds(WeightSet("nothing", {}, ()), torch.nn.Module(), lambda _, t: t["x"] * 0.5, {"x": x})

    def product(self, weights: WeightSet, side: int, columns: tuple[int, ...]) -> None:
        """A square matrix, named "matrix", times so many columns."""
        module, type_ = torch.nn.Module(), weights.parameters["matrix"].type
        module.matrix = torch.nn.Parameter(torch.empty(side, side, device="meta"), requires_grad=False)
        for each in columns:
            x = torch.full((each, side), 0.1)
            seconds = self._seconds(weights, module, lambda m, t: linear(t["x"], m.matrix)[:1], {"x": x})
            self._note(f"mul_mat {type_}", each, 2.0 * each * side * side / seconds)

    def attention(self, channels: int, heads: int, tokens: int) -> None:
        """Of so many tokens to each other."""
        given = {name: torch.full((1, heads, tokens, channels), 0.1) for name in "qkv"}
        seconds = self._plain(lambda _, t: scaled_dot_product_attention(t["q"], t["k"], t["v"])[:, :1, :1], given)
        self._note("flash_attn F32", channels, 4.0 * heads * tokens * tokens * channels / seconds)

    def convolution(self, weights: WeightSet, name: str, shape: tuple[int, ...], side: int) -> None:
        """A kernel, a parameter of that name and shape, on a picture."""
        module = torch.nn.Module()
        module.kernel = torch.nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)
        alone = WeightSet(weights.name, {"kernel": weights.parameters[name]}, weights.files)
        x = torch.full((1, shape[1], side, side), 0.1)
        seconds = self._seconds(alone, module, lambda m, t: conv2d(t["x"], m.kernel, padding=1)[:, :1, :1], {"x": x})
        self._note(f"conv_2d {alone.parameters['kernel'].type}", shape[0], 2.0 * prod(shape) * side**2 / seconds)

    def others(self, rows: int, columns: int) -> None:
        """Operations that multiply nothing."""
        x, size = torch.full((rows, columns), 0.1), float(_F32 * rows * columns)
        functions: dict[str, tuple[float, Callable[[torch.Tensor], torch.Tensor]]] = {
            "add": (3, lambda x: x + x),
            "mul": (3, lambda x: x * x),
            "scale": (2, lambda x: x * 0.5),
            "gelu": (2, lambda x: gelu(x, approximate="tanh")),
            "silu": (2, silu),
            "norm": (2, lambda x: layer_norm(x, (columns,))),
            "soft_max": (2, lambda x: x.softmax(-1)),
            "sum_rows": (1, lambda x: x.sum(-1)),
            "cont": (2, torch.clone),
            "repeat": (3, lambda x: x.repeat(2, 1)),
            "transpose": (2, lambda x: x.T.contiguous()),
            "broadcast": (2, lambda x: x + x[:, :1]),
            "upscale": (5, lambda x: interpolate(x[None, None], scale_factor=2.0)[0, 0]),
            "concat": (4, lambda x: torch.cat((x, x), -1)),
        }
        for name, (times, function) in functions.items():
            once, often = (self._plain(partial(_again, function, count), {"x": x}) for count in (1, _AGAIN))
            seconds = max((often - once) / (_AGAIN - 1), 0.1 * once)
            self._note(name, times * size, times * size / seconds)

    def rates(self, upload: float) -> Rates:
        """All that was measured."""
        curves = {kind: tuple(sorted(found)) for kind, found in self.points.items()}
        return Rates(curves, max(rate for _, rate in curves["add"]), 0.0, self._call, upload)

    def _note(self, kind: str, size: float, rate: float) -> None:
        self.points.setdefault(kind, []).append((float(size), rate))

    def _plain(self, function: Callable[[Any, Tensors], torch.Tensor], given: Tensors) -> float:
        return self._seconds(WeightSet("nothing", {}, ()), torch.nn.Module(), function, given)

    def _seconds(
        self, weights: WeightSet, module: torch.nn.Module, function: Callable[[Any, Tensors], torch.Tensor],
        given: Tensors,
    ) -> float:  # fmt: skip
        """The shortest of some runs, less what a run takes that computes nothing."""
        model = TorchModel(module, weights, CPU)
        clock = thread_time if wanted_threads() == 1 else perf_counter  # which other processes make longer
        seconds = shortest_call(lambda: model.run(0, function, given), self._interrupted, clock)
        return max(seconds - self._call, 1e-7)
