"""Walks a prompt in the order in which ComfyUI would execute it, with models that only record their work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

import nodes as core

from ...native.client import shared
from ...native.engines.dry_run import Recorder
from ...native.planning import Machine, Part
from ..components.host import dry_run_host
from .order import execution_order
from .other_nodes import follow, is_ours, needed_inputs, title_of, why_it_fails
from .planned_models import planned_model
from .rules import RULES
from .unknown import Inputs, NodeTurn, Outputs, Size, Unknown, Unplanned
from .value_lists import executions, merged

Prompt = Mapping[str, Any]  # the API's format: node id -> {"class_type", "inputs"}


class NodeFault(Exception):
    """A node that cannot be planned with the inputs it has; the message is for the user."""


@dataclass(frozen=True)
class Walked:
    """The outcome of a walk, in sentences for the user."""

    notes: tuple[str, ...]  # what is not in the plan or was planned with an assumption, and why
    gaps: tuple[str, ...]  # those of the notes that are about models of this pack: what they take is not known


def walk(
    prompt: Prompt, recorder: Recorder, unknown: Size | None = None, targets: Sequence[str] | None = None
) -> Walked:
    """Records the work of a prompt's models; follows a damaged prompt as far as it makes sense.

    unknown: the size to plan with where it is unknown. targets: the output nodes that run; None for all.
    Raises what the nodes of this pack raise for files that cannot be used, and NodeFault.
    """
    walk = _Walk(prompt, recorder, unknown or Size())
    outputs = output_nodes(prompt, targets)
    with dry_run_host(recorder), torch.inference_mode():
        for node in (*execution_order(prompt, outputs), *outputs):
            walk.outputs(node)
    return Walked(tuple(walk.notes), tuple(walk.gaps))


def output_nodes(prompt: Prompt, targets: Sequence[str] | None = None) -> list[str]:
    """The output nodes that run; targets: as for `walk`."""
    return [node for node in prompt if _is_output(prompt[node]) and (targets is None or node in targets)]


def inputs_of(prompt: Prompt, node: str, machine: Machine) -> dict[str, Any]:
    """The inputs of a node with the values of what is linked, each an Unknown where it cannot be known.

    machine: on which its loaders would load; nothing is planned.
    """
    recorder = Recorder(shared(), machine)
    walk = _Walk(prompt, recorder, Size())
    with dry_run_host(recorder), torch.inference_mode():
        return {name: walk.value(value) for name, value in prompt[node]["inputs"].items()}


@contextmanager
def _what_models_refuse(class_type: str, inputs: Inputs) -> Iterator[None]:
    """Raises Unplanned where a model of ComfyUI's refuses its inputs, as some do a batch of pictures."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if type(error) not in (ValueError, RuntimeError, NotImplementedError):  # of this pack, whose errors have kinds
            raise
        raise Unplanned(why_it_fails(class_type, inputs, error)) from error


def _executed(class_type: str, inputs: Inputs, linked: bool, turn: NodeTurn) -> Outputs:
    """The outputs of a node that ComfyUI executes with these inputs."""
    planned = RULES.get(class_type)
    if planned:
        return tuple(map(planned_model, planned.rule(inputs, turn)))
    return follow(class_type, inputs, linked, turn)


class _Walk:
    def __init__(self, prompt: Prompt, recorder: Recorder, unknown: Size) -> None:
        self._prompt = prompt
        self._recorder = recorder
        self._unknown = unknown
        self._outputs: dict[str, tuple[Any, ...]] = {}
        self._in_progress: set[str] = set()
        self.notes: list[str] = []
        self.gaps: list[str] = []

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
        given = {str(name): value for name, value in described["inputs"].items()}
        inputs = needed_inputs(class_type, given, self.value, _is_link)
        planned = RULES.get(class_type)
        self._recorder.part = Part(node, (planned and planned.title) or title_of(class_type))
        turn = NodeTurn(self._recorder, self._unknown)
        try:
            linked = any(map(_is_link, given.values()))
            with _what_models_refuse(class_type, inputs):
                times = executions(core.NODE_CLASS_MAPPINGS.get(class_type), inputs)
                return merged([_executed(class_type, each, linked, turn) for each in times])
        except Unplanned as reason:
            note = f"{class_type} (node {node}) is not in the plan: {reason}."
            is_gap = any(map(is_ours, inputs.values())) or (bool(planned and planned.title) and not reason.foreign)
            if is_gap or (planned and planned.title) or class_type not in core.NODE_CLASS_MAPPINGS:
                self.notes.append(note)
            if is_gap:
                self.gaps.append(note)
            return (Unknown(str(reason), foreign=reason.foreign),)
        except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
            raise NodeFault(
                f"{class_type:.80} (node {node:.40}) cannot be planned: one of its inputs has a value that makes no "
                "sense there, or the planner has a fault, of which ComfyUI's log says more."
            ) from error
        finally:
            self.notes += [
                f"{class_type} (node {node}) is planned with {each}." for each in dict.fromkeys(turn.assumptions)
            ]

    def value(self, value: Any) -> Any:
        """An input, followed if it is linked."""
        if not _is_link(value):
            return value
        node, output = value
        outputs = self.outputs(str(node))
        if 0 <= output < len(outputs):
            return outputs[output]
        if outputs and isinstance(outputs[0], Unknown):
            return outputs[0]
        return Unknown(f"node {node} has no output {output}")


def prompt_fault(prompt: Any) -> str | None:
    """Why something is no workflow in API format that ComfyUI would run; None where it may be one."""
    if not isinstance(prompt, Mapping):
        return 'the body must be {"prompt": a workflow in API format}'
    if fault := malformed_node(prompt):
        return fault
    if not any(map(_is_output, prompt.values())):
        return "the workflow has no output node, such as Save Image, so that nothing would run"
    return None


def malformed_node(prompt: Prompt) -> str | None:
    """The first node that is described as none can be, and how; None where there is none."""
    for node, described in prompt.items():
        if not isinstance(described, Mapping) or not isinstance(described.get("class_type"), str):
            return f"node {node!s:.40} of the workflow has no class_type: export it in API format"
        if not isinstance(described.get("inputs"), Mapping):
            return f"node {node!s:.40} ({described['class_type']:.80}) has no inputs: export the workflow in API format"
    return None


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and type(value[1]) is int


def _is_output(described: Any) -> bool:
    """Whether a node is an output node; one that this ComfyUI does not have counts as such."""
    if not isinstance(described, Mapping):
        return False
    node_class = core.NODE_CLASS_MAPPINGS.get(str(described.get("class_type")))
    return node_class is None or bool(getattr(node_class, "OUTPUT_NODE", False))


Change = Mapping[str, Mapping[str, Any]]  # node id -> inputs


def changed(prompt: Prompt, change: Change) -> Prompt:
    """A copy of the prompt with these inputs set."""
    result = dict(prompt)
    for node, inputs in change.items():
        result[node] = {**prompt[node], "inputs": {**prompt[node]["inputs"], **inputs}}
    return result
