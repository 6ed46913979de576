"""The weights of a module that torch has in memory, for an engine to be sent; the module itself stays as it is."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from ...native.weights import WeightSet
from .core_module import in_float32


class NotInMemory(ValueError):
    """A module whose weights cannot be sent. The message is for the person at the node."""


def module_in_memory(module: torch.nn.Module, name: str) -> tuple[torch.nn.Module, WeightSet]:
    """A copy of a module on the meta device, and a copy of its weights: nodes change those of a module in place.

    name: of the model, for messages. Raises NotInMemory for weights in a form that only their own code reads.
    """
    memo = {
        id(each): torch.nn.Parameter(
            torch.empty(each.shape, dtype=torch.float32 if each.is_floating_point() else each.dtype, device="meta"),
            requires_grad=False,
        )
        for each in module.parameters()
    }
    core = copy.deepcopy(module, memo)
    in_float32(core)
    held = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    values = {key: held[key] for key in core.state_dict() if held[key].is_floating_point() and held[key].numel()}
    return core, WeightSet(name, {}, (), {key: as_array(name, key, x) for key, x in values.items()})


def as_array(model: str, name: str, value: Tensor) -> np.ndarray:
    """Half-precision matrices, and float16 kernels, as they are; vectors and the rest as float32."""
    if value.is_meta:
        raise NotInMemory(
            f"The weight {name} of the {model} has no values in this process. Choose the file in the GGML loader of "
            "its kind instead."
        )
    plain = value.detach()
    if type(plain) not in (Tensor, torch.nn.Parameter):
        dequantize = getattr(plain, "dequantize", None)
        if dequantize is None or not hasattr(plain, "_qdata"):
            raise NotInMemory(
                f"The weight {name} of the {model} is a {type(value).__name__}, quantized by the node that loaded it. "
                "Choose the file in the GGML loader of its kind instead, which reads it as it is."
            )
        plain = dequantize()
    plain = plain.to("cpu")
    if plain.dtype is torch.bfloat16 and plain.ndim == 2 and len(plain) > 1:
        return plain.contiguous().view(torch.int16).numpy().view(np.uint16).copy()
    keeps = plain.dtype is torch.float16 and plain.ndim > 1 and plain.shape[:-1].numel() > 1
    return plain.to(torch.float16 if keeps else torch.float32, copy=True).contiguous().numpy()
