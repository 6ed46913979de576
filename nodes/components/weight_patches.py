"""Weights with ComfyUI's patches in them, computed by core's own functions where no branch beside a weight does it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import comfy.lora
import numpy as np
import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from ...native.engines.torch_cpu.weight_reader import Values, array_values
from ...native.weights import Array, ComputedArray, WeightSet, array_digest, content
from ...native.weights.weight_set import described_in_bytes
from .peft_dora import decomposed

# strength, adapter, strength of the weight itself, window of the weight (dimension, start, length), function
Patch = tuple[float, Any, float, tuple[int, int, int] | None, Callable[[Tensor], Tensor] | None]
# The forms that are no adapter (calculate_weight of comfy/lora.py).
_FORMS = ("diff", "set")
_LARGEST = 65504.0  # of F16


class LoRAError(ValueError):
    """A weight patch that a GGML model cannot take; the message is for the person at the node."""


def kind_of(adapter: Any) -> str:
    """The type of a patch by its second value; the forms without a class are in calculate_weight of comfy/lora.py."""
    if isinstance(adapter, list):
        return "merge"  # the weight of another model, from its get_key_patches
    if isinstance(adapter, tuple):
        return str(adapter[0]) if len(adapter) == 2 else "diff"
    return str(getattr(adapter, "name", type(adapter).__name__))


def is_nothing(patch: Patch) -> bool:
    """Whether a patch leaves the weight as it is, whatever its shapes."""
    strength, adapter, strength_model, _, _ = patch
    if strength_model != 1.0:
        return False
    if isinstance(adapter, tuple) and kind_of(adapter) == "diff":
        values = adapter[1] if len(adapter) == 2 else adapter
        return len(values) == 1 and (strength == 0.0 or not bool(values[0].any()))
    return strength == 0.0 and isinstance(adapter, (WeightAdapterBase, list))


def check(key: str, patch: Patch, shape: torch.Size) -> None:
    """Raise LoRAError unless core's own function takes `patch` on a weight of this shape; nothing is computed."""
    adapter = patch[1]
    if not isinstance(adapter, (WeightAdapterBase, list)) and kind_of(adapter) not in _FORMS:
        raise LoRAError(
            f"The patch on {key} is of the type {kind_of(adapter)}, which a GGML model cannot take. Remove the node "
            "that adds it, or load the model with ComfyUI's own loader."
        )
    try:
        _calculated([patch], torch.empty(shape, device="meta"), key)
    except LoRAError as error:
        if "meta tensor" not in str(error):  # asks for a value, which says nothing of shapes
            raise


def patched(weights: WeightSet, name: str, key: str, patches: Sequence[Patch]) -> ComputedArray:
    """The parameter `name` of a set, dequantized and then patched, in F32 where it is loaded so, else in F16.

    key: of the parameter in messages. Raises LoRAError where core cannot compute it.
    """
    shape, type_ = weights.shapes()[name]
    dtype = np.dtype(np.float32 if type_ == "F32" else np.float16)
    result = _calculated(patches, torch.empty(shape, device="meta"), key, unknown_values=True)

    def compute() -> np.ndarray:
        values = Values(weights)
        try:
            made = _calculated(patches, values.whole(name), key)
        finally:
            values.close()
        if dtype == np.float16 and float(made.abs().max()) > _LARGEST:
            raise LoRAError(
                f"With its patches {key} has values up to {float(made.abs().max()):.3g}, which pass the largest number "
                f"of F16 ({_LARGEST:g}). Lower the strength of the LoRA."
            )
        return made.contiguous().numpy().astype(dtype)

    return ComputedArray(tuple(result.shape), dtype, _recipe(weights, name, patches), compute)


def _calculated(patches: Sequence[Patch], weight: Tensor, key: str, unknown_values: bool = False) -> Tensor:
    """core's calculate_weight; raises LoRAError for what core only logs.

    unknown_values: `weight` is on the meta device, and core's complaint that it has no values is no fault.
    """
    meant = [(patch[0], decomposed(patch[1]), *patch[2:]) for patch in patches]
    with _complaints() as said, torch.no_grad():
        try:
            made: Tensor = comfy.lora.calculate_weight(meant, weight, key, intermediate_dtype=torch.float32)
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, NotImplementedError) as error:
            said.append(str(error))
            made = weight
    faults = [each for each in said if not (unknown_values and "meta tensor" in each)]
    if faults:
        kinds = " and ".join(sorted({kind_of(patch[1]) for patch in patches}))
        raise LoRAError(
            f"The patch on {key} is of the type {kinds} and does not fit this model's weight of "
            f"{' x '.join(map(str, weight.shape))}: it belongs to another model, or the file is damaged. "
            f"ComfyUI said: {faults[0]}"
        )
    return made


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.said.append(record.getMessage())


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collects what core logs in this thread about a patch that it leaves out."""
    collector = _Collector()
    logging.getLogger().addHandler(collector)
    try:
        yield collector.said
    finally:
        logging.getLogger().removeHandler(collector)


def _recipe(weights: WeightSet, name: str, patches: Iterable[Patch]) -> str:
    array = weights.arrays.get(name)
    base = array_digest(array) if array is not None else described_in_bytes(
        weights.files, [weights.parameters[name]]
    ).decode()  # fmt: skip
    described = [
        [strength, _described(adapter), strength_model, offset, getattr(function, "__qualname__", repr(function))]
        for strength, adapter, strength_model, offset, function in patches
    ]
    return json.dumps([base, described])


def _described(value: Any) -> Any:
    """A patch as text and digests."""
    if isinstance(value, Tensor):
        return [
            list(value.shape),
            str(value.dtype),
            sha256(value.detach().float().contiguous().numpy().data).hexdigest(),
        ]
    if isinstance(value, (list, tuple)):
        return [_described(each) for each in value]
    if isinstance(value, dict):
        return [[str(key), _described(each)] for key, each in value.items()]
    if isinstance(value, WeightAdapterBase):
        return [type(value).__name__, _described(value.weights), _described(getattr(value, "magnitude", None))]
    return getattr(value, "__qualname__", repr(value))


def values_of(array: Array) -> Tensor:
    """The content of an array as a tensor of F32."""
    return array_values(content(array)).float()
