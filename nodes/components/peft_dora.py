"""DoRA in PEFT's names, `lora_magnitude_vector`, which core's loader leaves out (ComfyUI #4259).

Core's list of adapters gets one more, which takes that key with the two matrices beside it. In core's own models it is
the plain LoRA that it was before; here the magnitude counts.
"""

from __future__ import annotations

from typing import Any

import comfy.weight_adapter
import torch
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

_NAMES = ("lora_magnitude_vector", "lora_magnitude_vector.weight", "lora_magnitude_vector.default.weight")


class MagnitudeAdapter(LoRAAdapter):
    """An up and a down matrix, and the length of every row of the weight that they are added to."""

    magnitude: Tensor

    @classmethod
    def load(
        cls, x: str, lora: dict[str, Tensor], alpha: float, dora_scale: Tensor, loaded_keys: set[str] | None = None
    ) -> MagnitudeAdapter | None:
        """As LoRAAdapter, of what has a magnitude beside its matrices; None for all else."""
        name = next((f"{x}.{name}" for name in _NAMES if f"{x}.{name}" in lora), None)
        found = LoRAAdapter.load(x, lora, alpha, dora_scale, loaded_keys) if name else None
        if found is None or name is None:
            return None
        found.loaded_keys.add(name)
        adapter = cls(found.loaded_keys, found.weights)
        adapter.magnitude = lora[name]
        return adapter


class _Decomposed(LoRAAdapter):
    """magnitude * (weight + delta) / |weight + delta|, row by row (Liu et al. 2024, equation 5; PEFT's dora.py)."""

    def __init__(self, plain: MagnitudeAdapter) -> None:
        super().__init__(plain.loaded_keys, plain.weights)
        self.magnitude = plain.magnitude

    def calculate_weight(
        self, weight: Tensor, key: str, strength: float, strength_model: float, offset: Any, function: Any,
        intermediate_dtype: torch.dtype = torch.float32, original_weight: Any = None,
    ) -> Tensor:  # fmt: skip
        """As LoRAAdapter's. Raises RuntimeError where the shapes are not those of the weight."""
        up, down, alpha = self.weights[:3]
        up, down = (each.to(weight.device, intermediate_dtype).flatten(1) for each in (up, down))
        delta = function((up @ down).reshape(weight.shape) * (1.0 if alpha is None else alpha / down.shape[0]))
        magnitude = function(self.magnitude.to(weight.device, intermediate_dtype).reshape(-1, 1))  # [rows, 1]
        rows = (weight + delta).flatten(1)
        made = (rows * (magnitude / rows.norm(dim=1, keepdim=True))).reshape(weight.shape)
        weight += strength * (made - weight)
        return weight


def decomposed(adapter: Any) -> Any:
    """The adapter that a weight here is patched with: one with a magnitude so that it counts, any other as it is."""
    return _Decomposed(adapter) if isinstance(adapter, MagnitudeAdapter) else adapter


if all(each.__name__ != MagnitudeAdapter.__name__ for each in comfy.weight_adapter.adapters):
    comfy.weight_adapter.adapters.append(MagnitudeAdapter)
