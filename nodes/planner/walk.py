"""Walks a prompt in the order in which ComfyUI would execute it, with models that only record their work."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from comfy.model_management import InterruptProcessingException
from comfy_api.latest import io

import nodes as core

from ...native.engines.dry_run import Recorder
from ...native.planning import Part
from ..components.host import dry_run_host
from .rules import PURE, RULES
from .size_guard import SizeGuard
from .unknown import NodeTurn, Size, Unknown, Unplanned

log = logging.getLogger(__name__)
Prompt = Mapping[str, Any]  # the API's format: node id -> {"class_type", "inputs"}


def walk(
    prompt: Prompt, recorder: Recorder, unknown: Size | None = None, targets: Sequence[str] | None = None
) -> list[str]:
    """Records the work of a prompt's models; follows a damaged prompt as far as it makes sense.

    unknown: the size to plan with where it is unknown. targets: the output nodes that run; None for all.
    Returns notes for the user: what could not be planned or was planned with an assumption, and why.
    Raises what the nodes of this pack raise for files that cannot be used.
    """
    walk = _Walk(prompt, recorder, unknown or Size())
    with dry_run_host(recorder), torch.inference_mode():
        for node in prompt:
            if _is_output(prompt[node]) and (targets is None or node in targets):
                walk.outputs(node)
    return walk.notes


class _Walk:
    def __init__(self, prompt: Prompt, recorder: Recorder, unknown: Size) -> None:
        self._prompt = prompt
        self._recorder = recorder
        self._unknown = unknown
        self._outputs: dict[str, tuple[Any, ...]] = {}
        self._in_progress: set[str] = set()
        self.notes: list[str] = []

    def outputs(self, node: str) -> tuple[Any, ...]:
        """The outputs of a node, each an Unknown where it cannot be known."""
        if node in self._outputs:
            return self._outputs[node]
        if node in self._in_progress:
            return (Unknown("the workflow has a loop"),)
        self._in_progress.add(node)
        try:
            self._outputs[node] = self._follow(node)
        finally:
            self._in_progress.discard(node)
        return self._outputs[node]

    def _follow(self, node: str) -> tuple[Any, ...]:
        described = self._prompt.get(node)
        if not isinstance(described, Mapping) or not isinstance(described.get("inputs"), Mapping):
            return (Unknown(f"node {node} is not described"),)
        class_type = str(described.get("class_type"))
        inputs = {str(name): self._input(value) for name, value in described["inputs"].items()}
        planned = RULES.get(class_type)
        self._recorder.part = Part(node, planned.title if planned and planned.title else class_type)
        turn = NodeTurn(self._recorder, self._unknown)
        try:
            if planned:
                return planned.rule(inputs, turn)
            if class_type in PURE:
                return _execute(class_type, inputs)
        except Unplanned as reason:
            if planned and planned.title:
                self.notes.append(f"{class_type} (node {node}) is not in the plan: {reason}.")
            return (Unknown(str(reason)),)
        finally:
            self.notes += [f"{class_type} (node {node}) is planned with {each}." for each in turn.assumptions]
        if class_type not in core.NODE_CLASS_MAPPINGS:
            self.notes.append(f"{class_type} (node {node}) is not in the plan: this ComfyUI has no such node.")
        return (Unknown(f"it depends on {class_type} (node {node}), which the planner does not know"),)

    def _input(self, value: Any) -> Any:
        if not _is_link(value):
            return value
        node, output = value
        outputs = self.outputs(str(node))
        if 0 <= output < len(outputs):
            return outputs[output]
        if outputs and isinstance(outputs[0], Unknown):
            return outputs[0]
        return Unknown(f"node {node} has no output {output}")


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and type(value[1]) is int


def _is_output(described: Any) -> bool:
    """Whether a node is an output node; one that this ComfyUI does not have counts as such."""
    if not isinstance(described, Mapping):
        return False
    node_class = core.NODE_CLASS_MAPPINGS.get(str(described.get("class_type")))
    return node_class is None or bool(getattr(node_class, "OUTPUT_NODE", False))


def _execute(class_type: str, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Executes a node of ComfyUI. Raises Unplanned for unknown inputs and for what the node raises."""
    for value in inputs.values():
        if isinstance(value, Unknown):
            raise Unplanned(value.why)
    node_class = core.NODE_CLASS_MAPPINGS.get(class_type)
    if node_class is None:
        raise Unplanned(f"this ComfyUI has no node {class_type}")
    try:
        with SizeGuard():
            if issubclass(node_class, io.ComfyNode):
                output = node_class.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(**inputs)
                return tuple(output.result or ())
            result = getattr(node_class(), node_class.FUNCTION)(**inputs)
            return tuple(result["result"] if isinstance(result, dict) else result)
    except (Unplanned, InterruptProcessingException):  # the latter an Exception before ComfyUI 0.27
        raise
    except Exception as error:  # of a damaged prompt; ComfyUI reports it when the prompt runs
        raise Unplanned(f"{class_type} ends with {type(error).__name__}: {error}") from error


Change = Mapping[str, Mapping[str, Any]]  # node id -> inputs


def changed(prompt: Prompt, change: Change) -> Prompt:
    """A copy of the prompt with these inputs set."""
    result = dict(prompt)
    for node, inputs in change.items():
        result[node] = {**prompt[node], "inputs": {**prompt[node]["inputs"], **inputs}}
    return result
