"""Finds what went into a model as infinity or NaN, where its result has such values: the file is not to blame then."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...native.engines.torch_cpu.weight_reader import array_values
from ...native.errors import NotFinite
from ...native.weights import ComputedArray, WeightSet, content

_VALUES = "values that are infinite or not a number (NaN)"


def explained(
    error: NotFinite, weights: WeightSet, inputs: Mapping[str, Tensor], words: Mapping[str, str]
) -> NotFinite:
    """The error, or another that names the input or the LoRA with such values.

    words: for inputs, by the beginnings of their names, to begin a sentence with.
    """
    for name, x in inputs.items():
        count = _count(name, x)
        if count:
            word = words.get(name.partition(".")[0], "What a node passes")
            return NotFinite(
                f"{word} went into {weights.name} with {_VALUES}: {count:,} of {x.numel():,} in {name or 'it'}. "
                "Neither the model's file nor the device is the cause. Look at the nodes before this one, and at the "
                "settings of this one, such as cfg and denoise."
            )
    for name, array in weights.arrays.items():
        parameter, is_branch, _ = name.partition(".lora_")
        if (is_branch or isinstance(array, ComputedArray)) and not array_values(content(array)).isfinite().all():
            return NotFinite(
                f"A LoRA on {weights.name} holds {_VALUES}, for {parameter}. Its file is damaged, or its strength too "
                "large: remove the LoRA loaders one by one to find it, and download its file again."
            )
    return error


def _count(name: str, x: Tensor) -> int:
    """The elements that no computation can go on from; a mask has negative infinities by right."""
    if not x.is_floating_point():
        return 0
    bad = torch.isnan(x) | (x == torch.inf) if "mask" in name else ~torch.isfinite(x)
    return int(bad.sum())
