"""Chooses the engine of a component: the one that is asked for, or on the CPU the faster one."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..lower import LowerOptions
from ..placement import AUTO, CPU, GGML, TORCH, Placement
from ..planning.rates import Rates
from ..weights import WeightSet
from .cpu_benchmark import MARGIN, _faster, known_choice, typical_layer
from .ggml import GgmlModel
from .model import Model
from .torch_cpu import TorchModel


def model_for(
    module: torch.nn.Module, weights: WeightSet, placement: Placement, options: LowerOptions, tokens: int
) -> Model:
    """The module under the engine that its placement names; raises ValueError for torch on another device.

    tokens: that the module usually gets at once; the more there are, the less it counts that torch dequantizes anew.
    """
    chosen = replace(placement, engine=engine_of(weights, placement, tokens))
    if chosen.engine == TORCH:
        return TorchModel(module, weights, chosen)
    return GgmlModel(module, weights, chosen, options)


def refused(device: str, engine: str | None) -> str | None:
    """The message for an engine that cannot compute on a device, None for one that can."""
    if engine == TORCH and device != CPU:
        return f"The engine torch computes on the CPU only, not on {device}: choose the device CPU, or the engine auto."
    return None


def engine_of(weights: WeightSet, placement: Placement, tokens: int) -> str:
    """GGML or TORCH; raises ValueError for torch on another device."""
    check_engine(placement)
    if placement.engine != AUTO:
        return placement.engine
    typical = typical_layer(weights) if placement.device == CPU else None
    return GGML if typical is None else _faster(weights, typical, placement, tokens)


def likely_engine(weights: WeightSet, placement: Placement, tokens: int, rates: Rates | None) -> str:
    """The engine that `auto` will take, as far as that is known without a measurement: AUTO where it is not."""
    if placement.engine != AUTO:
        return placement.engine
    layer = typical_layer(weights) if placement.device == CPU else None
    if layer is None:
        return GGML
    known = known_choice(layer, placement, tokens)
    if known or rates is None or rates.torch is None:
        return known or AUTO
    kind, size = (f"mul_mat {layer.type}", float(tokens))
    if len(layer.shape) > 2:
        kind, size = f"conv_2d {layer.type}", float(layer.shape[0])
    return TORCH if rates.torch.rate(kind, size) >= MARGIN * rates.rate(kind, size) else GGML


def check_engine(placement: Placement) -> None:
    """Raise ValueError for torch on another device than the CPU."""
    wrong = refused(placement.device, placement.engine)
    if wrong:
        raise ValueError(wrong)
