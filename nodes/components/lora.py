"""ComfyUI's weight patches as low-rank branches beside quantized weights.

A plain LoRA adds strength * alpha / rank * up @ down to rows and columns of a weight (comfy/weight_adapter/lora.py);
the same product is added to what the layer puts out, so no dequantized copy of the weight is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from comfy.utils import swap_scale_shift
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ...native.engines.model import LowRank

# strength, adapter, strength of the weight itself, window of the weight (dimension, start, length), function
Patch = tuple[float, Any, float, tuple[int, int, int] | None, Callable[[Tensor], Tensor] | None]
_VARIANTS = {3: "has a middle matrix (LoCon)", 4: "scales the weight (DoRA)", 5: "reshapes the weight"}
_ADVICE = "GGML models take plain LoRAs only (an up and a down matrix): use one, or remove what applies this."


class LoRAError(ValueError):
    """A weight patch that a GGML model cannot take; the message is for the person at the node."""


def check(key: str, patch: Patch, core: torch.nn.Module, name: str) -> None:
    """Raise LoRAError unless `patch` on the parameter `name` of `core`, called `key` in messages, is a plain LoRA."""
    _, adapter, strength_model, _, function = patch
    patch_type = f"The patch on {key} is of the type {_kind(adapter)}"
    if strength_model != 1.0:
        raise LoRAError(f"{patch_type} and multiplies the weight itself by {strength_model:g} (a merge). {_ADVICE}")
    if function not in (None, swap_scale_shift):
        through = getattr(function, "__name__", type(function).__name__)
        raise LoRAError(f"{patch_type} and passes through the function {through}. {_ADVICE}")
    if not isinstance(adapter, LoRAAdapter):
        raise LoRAError(f"{patch_type}. {_ADVICE}")
    for index, variant in _VARIANTS.items():
        if adapter.weights[index] is not None:
            raise LoRAError(f"The LoRA on {key} {variant}. {_ADVICE}")
    if not isinstance(core.get_submodule(name.rpartition(".")[0]), torch.nn.Linear) or not name.endswith(".weight"):
        raise LoRAError(f"The LoRA on {key} changes something other than the weight of a linear layer. {_ADVICE}")
    up, down = adapter.weights[0].flatten(1), adapter.weights[1].flatten(1)
    shape = core.get_parameter(name).shape
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


def low_rank(patches: Iterable[Patch], shape: torch.Size) -> LowRank | None:
    """All checked patches of one weight [rows, columns] as one branch; None where their strengths are zero."""
    downs, ups = [], []
    for patch in patches:
        strength, adapter = patch[:2]
        if strength == 0.0:
            continue
        up, down, alpha = adapter.weights[0].flatten(1), adapter.weights[1].flatten(1), adapter.weights[2]
        rank = down.shape[0]
        scale = strength if alpha is None else strength * alpha / rank
        rows, columns = _window(patch, shape)
        if patch[4] is not None:  # swap_scale_shift: diffusers has the halves of norm_out's rows the other way around
            up = patch[4](up)
        ups.append(torch.zeros(shape[0], rank))
        ups[-1][rows.start : rows.stop] = scale * up.to("cpu", torch.float32)
        downs.append(torch.zeros(rank, shape[1]))
        downs[-1][:, columns.start : columns.stop] = down.to("cpu", torch.float32)
    return LowRank(torch.cat(downs).numpy(), torch.cat(ups, dim=1).numpy()) if ups else None


def _kind(adapter: Any) -> str:
    """The type of a patch by its second value; the forms without a class are in calculate_weight of comfy/lora.py."""
    if isinstance(adapter, list):
        return "merge"  # the weight of another model, from its get_key_patches
    if isinstance(adapter, tuple):
        return adapter[0] if len(adapter) == 2 else "diff"
    return getattr(adapter, "name", type(adapter).__name__)


def _window(patch: Patch, shape: torch.Size) -> tuple[range, range]:
    """The rows and columns of a weight that a patch changes."""
    ranges = [range(shape[0]), range(shape[1])]
    if patch[3] is not None:
        dimension, start, length = patch[3]
        ranges[dimension] = range(start, start + length)
    return ranges[0], ranges[1]
