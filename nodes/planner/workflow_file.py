"""Reads workflow files: those in API format as they are, those of ComfyUI's editor converted to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import nodes as core

from .walk import Prompt

_MUTED, _BYPASSED = 2, 4  # modes of a node in the editor
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_AFTER_GENERATING = ("fixed", "increment", "decrement", "randomize")  # what the editor stores behind a seed


class WorkflowError(ValueError):
    """A file that is no workflow, or of a kind that is not read here. The message is for the user."""


def prompt_of(content: Any) -> Prompt:
    """The prompt that ComfyUI's editor would send for the parsed JSON of a workflow. Raises WorkflowError."""
    if not isinstance(content, Mapping):
        raise WorkflowError("it holds no JSON object")
    if "nodes" not in content:
        if not all(isinstance(node, Mapping) and "class_type" in node for node in content.values()):
            raise WorkflowError("it is neither a workflow of ComfyUI's editor nor one in API format")
        return content
    if content.get("definitions", {}).get("subgraphs"):
        raise WorkflowError("it has subgraphs: open it in ComfyUI and export it in API format")
    return _Editor(content).prompt()


class _Editor:
    """A workflow as the editor saves it (its schema: Comfy-Org/ComfyUI_frontend, schemas/comfyWorkflowSchema.ts)."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._nodes = {node["id"]: node for node in content["nodes"]}
        self._links = {link[0]: (link[1], link[2]) for link in content.get("links") or []}

    def prompt(self) -> Prompt:
        """The nodes that ComfyUI executes, in API format."""
        return {
            str(key): {"class_type": node["type"], "inputs": dict(self._inputs(node))}
            for key, node in self._nodes.items()
            if node["type"] in core.NODE_CLASS_MAPPINGS and node.get("mode", 0) not in (_MUTED, _BYPASSED)
        }

    def _inputs(self, node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        yield from _widgets(node)
        for slot in node.get("inputs") or []:
            if slot.get("link") is not None:
                source = self._source(slot["link"])
                if source is not None:
                    yield slot["name"], source

    def _source(self, link: int) -> Any:
        """The [node id, output] at the start of a link, followed through reroutes and bypassed nodes; None where muted.

        Of a PrimitiveNode its value.
        """
        key, output = self._links[link]
        node = self._nodes[key]
        if node["type"] == "PrimitiveNode":
            return node["widgets_values"][0]
        if node["type"] == "Reroute":
            through = node["inputs"][0].get("link")
        elif node.get("mode", 0) == _BYPASSED:
            through = self._bypassed(node, output)
        else:
            return None if node.get("mode", 0) == _MUTED else [str(key), output]
        return None if through is None else self._source(through)

    def _bypassed(self, node: Mapping[str, Any], output: int) -> int | None:
        """The link that replaces an output of a bypassed node: its first input of the same type."""
        kind = node["outputs"][output]["type"]
        return next((slot["link"] for slot in node["inputs"] if slot["type"] == kind and slot.get("link")), None)


def _widgets(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    stored = node.get("widgets_values") or []
    if isinstance(stored, Mapping):
        yield from stored.items()
        return
    values = list(stored)
    types = core.NODE_CLASS_MAPPINGS[node["type"]].INPUT_TYPES()
    for name, described in {**types.get("required", {}), **types.get("optional", {})}.items():
        kind, options = described[0], described[1] if len(described) > 1 else {}
        if not values or options.get("forceInput") or not (isinstance(kind, list) or kind in _WIDGETS):
            continue
        yield name, values.pop(0)
        if values and values[0] in _AFTER_GENERATING and (options.get("control_after_generate") or "seed" in name):
            values.pop(0)
