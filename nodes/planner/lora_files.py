"""LoRA files that ComfyUI's own loaders, which read them, cannot read, without saying which file it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import folder_paths
from safetensors import safe_open

from .order import execution_order

_ENDINGS = (".safetensors", ".sft")
# The two matrices of a layer, as writers call them (comfy/weight_adapter/lora.py); core takes the second for granted.
_HALVES = (
    ("lora_up.", "lora_down."), ("lora_B.", "lora_A."), ("lora.up.", "lora.down."),
    ("lora_linear_layer.up.", "lora_linear_layer.down."),
)  # fmt: skip


def unreadable_lora(inputs: Mapping[str, Any]) -> tuple[str, str] | None:
    """The input of a node that names such a file, and what is wrong, for the user; None where there is none."""
    for name, value in inputs.items():
        if not isinstance(value, str) or not value.lower().endswith(_ENDINGS):
            continue
        path = folder_paths.get_full_path("loras", value)
        if path is None:
            continue
        try:
            with safe_open(path, framework="numpy") as file:
                halves = _without_the_other(file.keys())
        except Exception as error:  # SafetensorError, and what the system says
            return name, (
                f"The LoRA {path} cannot be read: {error!s:.300}. The file is incomplete, damaged or of another "
                "format: download or copy it again, or choose another."
            )
        if halves:
            return name, (
                f"The LoRA {path} has {halves[0]:.200} but no {halves[1]:.200}. The file is incomplete or damaged: "
                "download or copy it again, or choose another."
            )
    return None


def _without_the_other(names: Iterable[str]) -> tuple[str, str] | None:
    """A matrix that is there, and the one that belongs to it and is not; None where all are."""
    there = set(names)
    for up, down in _HALVES:
        for name in sorted(there):
            before, found, after = name.rpartition(up)
            if found and before + down + after not in there:
                return name, before + down + after
    return None


def unreadable_lora_of(prompt: Mapping[str, Any], outputs: Sequence[str]) -> tuple[str, str, str] | None:
    """The first node that runs for these output nodes and names such a file, its input, and what is wrong."""
    found = {
        node: fault
        for node, described in prompt.items()
        if isinstance(described, Mapping) and isinstance(described.get("inputs"), Mapping)
        if (fault := unreadable_lora(described["inputs"]))
    }
    if not found:
        return None
    node = next((node for node in execution_order(prompt, outputs) if node in found), None)
    return None if node is None else (node, *found[node])
