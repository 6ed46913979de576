"""The order in which ComfyUI executes the nodes of a prompt, by its own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_execution.graph import DynamicPrompt, ExecutionList


class _NothingCached:
    """ComfyUI's cache of outputs before the first run."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_kwargs: None


def execution_order(prompt: Mapping[str, Any], outputs: Sequence[str]) -> list[str]:
    """The nodes that these output nodes need, in the order of their execution.

    Of a damaged prompt no more than what ComfyUI would begin with.
    """
    order: list[str] = []
    try:
        queue = ExecutionList(DynamicPrompt(dict(prompt)), _NothingCached())
        for node in outputs:
            queue.add_node(node)
        while not queue.is_empty() and (ready := _staged(queue)):
            order.append(ready)
            queue.complete_node_execution()
    except Exception:  # of a prompt that ComfyUI refuses for the same reason
        pass
    return order


def _staged(queue: ExecutionList) -> str | None:
    """The node that is next; None in a loop."""
    step = queue.stage_node_execution()  # waits for nothing but nodes that ask for others while they run
    try:
        step.send(None)
    except StopIteration as done:
        node: str | None = done.value[0]
        return node
    step.close()
    return None
