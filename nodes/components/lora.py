"""ComfyUI's weight patches on a component: low-rank branches beside quantized weights, or weights computed anew.

A plain LoRA adds strength * alpha / rank * up @ down to rows and columns of a weight (comfy/weight_adapter/lora.py);
the same product is added to what the layer puts out, so no dequantized copy of the weight is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from comfy.utils import swap_scale_shift
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...native.engines.model import LowRank, Patches
from ...native.weights import Array, WeightSet
from . import weight_patches
from .peft_dora import MagnitudeAdapter
from .weight_patches import LoRAError, Patch, is_nothing, kind_of, patched

_MIDDLE, _SCALE, _RESHAPED = 3, 4, 5  # of an adapter's weights, that a plain LoRA lacks
_SAFE = 1024.0  # of matrices in F16, that no product of them with activations passes 65504 sooner than the weight's


def check(
    key: str, patch: Patch, core: torch.nn.Module, name: str, shape: torch.Size, widened: float = 1.0
) -> None:  # fmt: skip
    """Raise LoRAError unless the parameter `name` of `core`, called `key` in messages, can take `patch`.

    shape: of the parameter as the file has it. widened: as for `as_wide_as`.
    """
    if is_nothing(patch):
        return
    patch = as_wide_as(shape, patch, widened)
    if is_low_rank(patch, core, name):
        _check_low_rank(key, patch, shape)
    else:
        weight_patches.check(key, patch, shape)


def patches_of(
    named: Mapping[str, tuple[str, Sequence[Patch]]], core: torch.nn.Module, weights: WeightSet, widened: float = 1.0
) -> Patches:
    """All checked patches of a component; named: by parameter, its key in messages and its patches.

    widened: as for `as_wide_as`. Raises LoRAError where a weight cannot be computed.
    """
    branches: dict[str, list[LowRank]] = {}
    arrays: dict[str, Array] = {}
    shapes = weights.shapes()
    for name, (key, every) in named.items():
        shape = torch.Size(shapes[name][0])
        patches = [as_wide_as(shape, patch, widened) for patch in every if not is_nothing(patch)]
        if not patches:
            continue
        if not all(is_low_rank(patch, core, name) for patch in patches):
            arrays[name] = patched(weights, name, key, patches)
        elif found := low_rank(patches, shape):
            branches[name] = found
    return Patches(branches, arrays)


def is_low_rank(patch: Patch, core: torch.nn.Module, name: str) -> bool:
    """Whether a patch is a plain LoRA on the weight of a linear layer, which can be computed beside it."""
    _, adapter, strength_model, _, function = patch
    plain = isinstance(adapter, LoRAAdapter) and not isinstance(adapter, MagnitudeAdapter)
    if not plain or any(adapter.weights[index] is not None for index in (_MIDDLE, _SCALE, _RESHAPED)):
        return False
    linear = isinstance(core.get_submodule(name.rpartition(".")[0]), torch.nn.Linear) and name.endswith(".weight")
    return linear and strength_model == 1.0 and function in (None, swap_scale_shift)


def as_wide_as(shape: torch.Size, patch: Patch, widened: float) -> Patch:
    """A LoRA on a model's input layer, with zeros for the channels that the model has and the LoRA's own has not.

    widened: how many times as many channels the model takes as a latent has, as inpainting models take a mask. What
    diffusers does with a LoRA of FLUX.1-dev on FLUX.1-Fill (diffusers #10184).
    """
    strength, adapter, strength_model, offset, function = patch
    if widened <= 1.0 or offset is not None or not isinstance(adapter, LoRAAdapter) or len(shape) < 2:
        return patch
    down, kernel = adapter.weights[1], math.prod(shape[2:])
    channels = math.prod(down.shape[1:]) // kernel
    if adapter.weights[_RESHAPED] is not None or channels * widened != shape[1]:
        return patch
    by_channel = down.reshape(down.shape[0], channels, *shape[2:])
    wide = torch.cat([by_channel, by_channel.new_zeros(down.shape[0], shape[1] - channels, *shape[2:])], dim=1)
    again = type(adapter)(adapter.loaded_keys, (adapter.weights[0], wide, *adapter.weights[2:]))
    again.__dict__ |= {key: value for key, value in adapter.__dict__.items() if key not in ("loaded_keys", "weights")}
    return strength, again, strength_model, offset, function


def low_rank(patches: Iterable[Patch], shape: torch.Size) -> list[LowRank]:
    """All checked plain LoRAs of one weight [rows, columns] as branches, one for each window; none of what is zero."""
    windows: dict[tuple[range, range], list[tuple[Tensor, Tensor]]] = {}
    halves: dict[tuple[range, range], bool] = {}
    for patch in patches:
        strength, adapter = patch[:2]
        up, down, alpha = adapter.weights[0].flatten(1), adapter.weights[1].flatten(1), adapter.weights[2]
        scale = strength if alpha is None else strength * alpha / down.shape[0]
        if patch[4] is not None:  # swap_scale_shift: diffusers has the halves of norm_out's rows the other way around
            up = patch[4](up)
        half = all(each.element_size() <= 2 for each in (up, down))
        down, up = _balanced(down.to("cpu", torch.float32), scale * up.to("cpu", torch.float32))
        if down.any() and up.any():
            window = _window(patch, shape)
            windows.setdefault(window, []).append((down, up))
            halves[window] = halves.get(window, True) and half and max(_largest(down), _largest(up)) < _SAFE
    return [_branch(window, pairs, halves[window]) for window, pairs in windows.items()]


def _branch(window: tuple[range, range], pairs: list[tuple[Tensor, Tensor]], half: bool) -> LowRank:
    dtype = torch.float16 if half else torch.float32  # as the file has it: more would be memory for nothing
    down = torch.cat([down for down, _ in pairs]).to(dtype).contiguous().numpy()
    up = torch.cat([up for _, up in pairs], dim=1).to(dtype).contiguous().numpy()
    return LowRank(down, up, window[0].start, window[1].start)


def _balanced(down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """Two matrices of the same product with numbers of about one size, so that neither is too small for F16."""
    sizes = _largest(down), _largest(up)
    if not all(0.0 < size < math.inf for size in sizes):
        return down, up
    factor = 2.0 ** round(math.log2(sizes[1] / sizes[0]) / 2)
    return down * factor, up / factor


def _largest(matrix: Tensor) -> float:
    return float(matrix.abs().max())


def _check_low_rank(key: str, patch: Patch, shape: torch.Size) -> None:
    adapter = patch[1]
    up, down = adapter.weights[0].flatten(1), adapter.weights[1].flatten(1)
    rows, columns = _window(patch, shape)
    if rows.stop > shape[0] or columns.stop > shape[1]:
        raise LoRAError(
            f"The LoRA on {key} reaches to row {rows.stop} and column {columns.stop} of a weight, but this model's is "
            f"{shape[0]} x {shape[1]}: it belongs to another model."
        )
    if (up.shape[0], down.shape[1]) != (len(rows), len(columns)) or up.shape[1] != down.shape[0]:
        raise LoRAError(
            f"The LoRA on {key} is made for a weight of {up.shape[0]} x {down.shape[1]}, but this model's is "
            f"{len(rows)} x {len(columns)}: it belongs to another model."
        )


def _window(patch: Patch, shape: torch.Size) -> tuple[range, range]:
    """The rows and columns of a weight that a patch changes."""
    ranges = [range(shape[0]), range(shape[1])]
    if patch[3] is not None:
        dimension, start, length = patch[3]
        ranges[dimension] = range(start, start + length)
    return ranges[0], ranges[1]


__all__ = ["LoRAError", "Patch", "as_wide_as", "check", "is_low_rank", "kind_of", "low_rank", "patches_of"]
