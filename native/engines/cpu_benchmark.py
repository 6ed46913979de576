"""Speed of ggml and torch on the CPU, measured with one typical layer of a model."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from math import prod

import torch

from ..client import RunnerError
from ..placement import GGML, TORCH, Placement
from ..weights import Parameter, WeightSet
from .ggml import GgmlModel
from .model import Model
from .torch_cpu import TorchModel

# Torch must multiply so much faster, or ggml it is: around its products torch is slower. Machines are rarely near it
# (1.2 to 1.4 or 1.8 to 3 with BF16 instructions, 0.8 or 2.3 without), so they choose the same in every session, and a
# seed gives the same picture.
MARGIN = 1.5
WORTH_MEASURING = 1 << 20  # elements; smaller layers take next to no time under either
SIDE = 64  # of what a convolution is measured with
_ROUNDS = 2
log = logging.getLogger(__name__)


def typical_layer(weights: WeightSet) -> Parameter | None:
    """The smallest layer worth measuring among those of the kind and type that hold most of the weights."""
    layers = [p for p in weights.parameters.values() if len(p.shape) in (2, 4) and prod(p.shape) >= WORTH_MEASURING]
    elements: Counter[tuple[int, str]] = Counter()
    for layer in layers:
        elements[len(layer.shape), layer.stored] += prod(layer.shape)
    if not elements:
        return None
    heaviest = elements.most_common(1)[0][0]
    return min((p for p in layers if (len(p.shape), p.stored) == heaviest), key=lambda p: prod(p.shape))


@dataclass(frozen=True)
class _Speeds:
    """FLOP/s of a layer."""

    ggml: float
    torch: float


_known: dict[tuple[str, tuple[int, ...], str, int], _Speeds] = {}
_measuring = threading.Lock()


def known_choice(layer: Parameter, placement: Placement, tokens: int) -> str | None:
    """The engine that was measured to be the faster one for such a layer; None where none was."""
    speeds = _known.get((layer.stored, layer.shape, placement.residency, tokens))
    return None if speeds is None else _chosen(speeds)


def _faster(weights: WeightSet, layer: Parameter, placement: Placement, tokens: int) -> str:
    key = layer.stored, layer.shape, placement.residency, tokens
    with _measuring:
        if key not in _known:
            try:
                _known[key] = _measured(weights, layer, placement, tokens)
            except RunnerError as error:
                log.warning("%s on the CPU: torch, as ggml's speed could not be measured: %s", weights.name, error)
                return TORCH
            speeds, dimensions = _known[key], " x ".join(map(str, layer.shape))
            log.info(
                "%s weights of %s on the CPU: %s; torch reaches %.0f GFLOP/s, ggml %.0f.",
                layer.stored, dimensions, _chosen(speeds), speeds.torch / 1e9, speeds.ggml / 1e9,
            )  # fmt: skip
        return _chosen(_known[key])


def _chosen(speeds: _Speeds) -> str:
    return TORCH if speeds.torch >= MARGIN * speeds.ggml else GGML


def _measured(weights: WeightSet, layer: Parameter, placement: Placement, tokens: int) -> _Speeds:
    alone = WeightSet(weights.name, {"weight": replace(layer, name="weight")}, weights.files)
    module, x, flops = _problem(layer.shape, tokens)
    models: tuple[Model, Model] = GgmlModel(module, alone, placement), TorchModel(module, alone, placement)
    ggml, torch_ = (flops / _seconds(model, x) for model in models)
    for model in models:
        model.unload()
    return _Speeds(ggml, torch_)


def _problem(shape: tuple[int, ...], tokens: int) -> tuple[torch.nn.Module, torch.Tensor, float]:
    """A layer with a weight of this shape, an input for it, and the floating-point operations of one run."""
    if len(shape) == 2:
        linear = torch.nn.Linear(shape[1], shape[0], bias=False, device="meta")
        return linear, torch.full((tokens, shape[1]), 0.1), 2.0 * tokens * prod(shape)
    convolution = torch.nn.Conv2d(shape[1], shape[0], (shape[2], shape[3]), padding="same", bias=False, device="meta")
    return convolution, torch.full((1, shape[1], SIDE, SIDE), 0.1), 2.0 * SIDE**2 * prod(shape)


def _call(module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    return module(inputs["x"])


def _seconds(model: Model, x: torch.Tensor) -> float:
    """The shorter of two runs after a first one, which reads the weight and builds the graph."""
    model.run(0, _call, {"x": x})
    taken = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        model.run(0, _call, {"x": x})
        taken.append(time.perf_counter() - start)
    return min(taken)
