"""A prompt with some inputs set otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .follow import Prompt

Change = Mapping[str, Mapping[str, Any]]  # node id -> inputs


def changed(prompt: Prompt, change: Change) -> Prompt:
    """A copy of the prompt in which these inputs of these nodes are set."""
    result = dict(prompt)
    for node, inputs in change.items():
        result[node] = {**prompt[node], "inputs": {**prompt[node]["inputs"], **inputs}}
    return result
