"""A prompt followed from node to node in the order ComfyUI would execute it, with models that compute nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from comfy.model_management import InterruptProcessingException
from comfy_api.latest import io

import nodes as core

from ...native.engines.dry_run import Recorder, recording
from ...native.planning import Part
from .rules import PURE, RULES
from .size_guard import SizeGuard
from .unknown import NodeTurn, Size, Unknown, Unplanned

log = logging.getLogger(__name__)
Prompt = Mapping[str, Any]  # the API's format: node id -> {"class_type", "inputs"}


def walk(
    prompt: Prompt, recorder: Recorder, unknown: Size | None = None, targets: Sequence[str] | None = None
) -> list[str]:
    """Have the recorder note what the prompt's models do; a damaged prompt is followed as far as it makes sense.

    unknown: what is taken for sizes that cannot be known. targets: the output nodes that run, where not all of them.
    Returns what could not be planned, or only with such sizes, and why, in words. Raises what the nodes of this pack
    raise for files that cannot be used.
    """
    walk = _Walk(prompt, recorder, unknown or Size())
    token = recording.set(recorder)
    try:
        with torch.inference_mode():
            for node in prompt:
                if _is_output(prompt[node]) and (targets is None or node in targets):
                    walk.values(node)
    finally:
        recording.reset(token)
    return walk.notes


class _Walk:
    def __init__(self, prompt: Prompt, recorder: Recorder, unknown: Size) -> None:
        self._prompt = prompt
        self._recorder = recorder
        self._unknown = unknown
        self._done: dict[str, tuple[Any, ...]] = {}
        self._open: set[str] = set()
        self.notes: list[str] = []

    def values(self, node: str) -> tuple[Any, ...]:
        """What a node puts out; an Unknown for each output that cannot be known."""
        if node in self._done:
            return self._done[node]
        if node in self._open:
            return (Unknown("the workflow has a loop"),)
        self._open.add(node)
        try:
            self._done[node] = self._made(node)
        finally:
            self._open.discard(node)
        return self._done[node]

    def _made(self, node: str) -> tuple[Any, ...]:
        described = self._prompt.get(node)
        if not isinstance(described, Mapping) or not isinstance(described.get("inputs"), Mapping):
            return (Unknown(f"node {node} is not described"),)
        class_type = str(described.get("class_type"))
        inputs = {str(name): self._input(value) for name, value in described["inputs"].items()}
        rule = RULES.get(class_type)
        self._recorder.part = Part(node, rule.title if rule and rule.title else class_type)
        following = NodeTurn(self._recorder, self._unknown)
        try:
            if rule:
                return rule.make(inputs, following)
            if class_type in PURE:
                return _executed(class_type, inputs)
        except Unplanned as reason:
            if rule and rule.title:
                self.notes.append(f"{class_type} (node {node}) is not in the plan: {reason}.")
            return (Unknown(str(reason)),)
        finally:
            self.notes += [f"{class_type} (node {node}) is planned with {each}." for each in following.taken]
        if class_type not in core.NODE_CLASS_MAPPINGS:
            self.notes.append(f"{class_type} (node {node}) is not in the plan: this ComfyUI has no such node.")
        return (Unknown(f"it depends on {class_type} (node {node}), which the planner does not know"),)

    def _input(self, value: Any) -> Any:
        if not _is_link(value):
            return value
        node, output = value
        made = self.values(str(node))
        if 0 <= output < len(made):
            return made[output]
        return made[0] if made and isinstance(made[0], Unknown) else Unknown(f"node {node} has no output {output}")


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and type(value[1]) is int


def _is_output(described: Any) -> bool:
    """Whether a node is executed for itself; one that this ComfyUI has not might be."""
    if not isinstance(described, Mapping):
        return False
    found = core.NODE_CLASS_MAPPINGS.get(str(described.get("class_type")))
    return found is None or bool(getattr(found, "OUTPUT_NODE", False))


def _executed(class_type: str, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """What ComfyUI's own node makes of inputs that are all known."""
    for value in inputs.values():
        if isinstance(value, Unknown):
            raise Unplanned(value.why)
    found = core.NODE_CLASS_MAPPINGS.get(class_type)
    if found is None:
        raise Unplanned(f"this ComfyUI has no node {class_type}")
    try:
        with SizeGuard():
            if issubclass(found, io.ComfyNode):
                made = found.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(**inputs)
                return tuple(made.result or ())
            made = getattr(found(), found.FUNCTION)(**inputs)
            return tuple(made["result"] if isinstance(made, dict) else made)
    except (Unplanned, InterruptProcessingException):  # the latter an Exception before ComfyUI 0.27
        raise
    except Exception as error:  # whatever a damaged prompt makes of it, ComfyUI says when it runs
        raise Unplanned(f"{class_type} ends with {type(error).__name__}: {error}") from error


Change = Mapping[str, Mapping[str, Any]]  # node id -> inputs


def changed(prompt: Prompt, change: Change) -> Prompt:
    """A copy of the prompt in which these inputs of these nodes are set."""
    result = dict(prompt)
    for node, inputs in change.items():
        result[node] = {**prompt[node], "inputs": {**prompt[node]["inputs"], **inputs}}
    return result
