"""LoRA files that safetensors cannot read: ComfyUI's own loaders, which read them, do not say which file it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import folder_paths
from safetensors import safe_open

from .order import execution_order

_ENDINGS = (".safetensors", ".sft")


def unreadable_lora(inputs: Mapping[str, Any]) -> tuple[str, str] | None:
    """The input of a node that names such a file, and what is wrong, for the user; None where there is none."""
    for name, value in inputs.items():
        if not isinstance(value, str) or not value.lower().endswith(_ENDINGS):
            continue
        path = folder_paths.get_full_path("loras", value)
        if path is None:
            continue
        try:
            with safe_open(path, framework="numpy"):
                pass
        except Exception as error:  # SafetensorError, and what the system says
            return name, (
                f"The LoRA {path} cannot be read: {error}. The file is incomplete, damaged or of another format: "
                "download or copy it again, or choose another."
            )
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
