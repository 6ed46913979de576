"""Reads workflow files: those in API format as they are, those of ComfyUI's editor converted to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import nodes as core

from ..conversion.editor import stored_values
from ..conversion.table import ROWS
from ..conversion.widgets import class_inputs
from .walk import Prompt

_MUTED, _BYPASSED = 2, 4  # modes of a node in the editor
_INPUTS = "-10"  # the node at which links from a subgraph's own inputs begin
_HOST = "-1"  # in the names of promoted widgets: the subgraph's node itself
_LEGACY_PREFIX = re.compile(r"^(\s*\d+\s*:\s*)+")  # of a promoted widget's name, in old files
_NOTHING: Any = object()
_PRIMITIVE, _REROUTE = "PrimitiveNode", "Reroute"
_ANY = ("*", "")


class WorkflowError(ValueError):
    """A file that is no workflow, or of a kind that is not read here. The message is for the user."""


def prompt_of(content: Any) -> Prompt:
    """The prompt that ComfyUI's editor would send for the parsed JSON of a workflow. Raises WorkflowError.

    Nodes of subgraphs have ids such as "7:4", node 4 of the subgraph that node 7 is.
    """
    if not isinstance(content, Mapping):
        raise WorkflowError("it holds no JSON object")
    if "nodes" not in content:
        if not all(isinstance(node, Mapping) and "class_type" in node for node in content.values()):
            raise WorkflowError("it is neither a workflow of ComfyUI's editor nor one in API format")
        return content
    try:
        return _Editor(content).prompt()
    except (KeyError, IndexError, TypeError, RecursionError) as error:
        raise WorkflowError(
            f"it is damaged: {type(error).__name__}: {error}. Open it in ComfyUI and save it again"
        ) from error


@dataclass(frozen=True)
class _Value:
    """The value that a widget outside of a node gives to its input."""

    value: Any


class _Graph:
    """A workflow or the definition of a subgraph, as the editor saves it.

    Its schema: Comfy-Org/ComfyUI_frontend, schemas/comfyWorkflowSchema.ts.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.nodes = {str(node["id"]): node for node in content["nodes"]}
        self.links = dict(map(_link, content.get("links") or []))
        self.inputs = content.get("inputs") or []  # of a subgraph
        self.outputs = content.get("outputs") or []


@dataclass(frozen=True)
class _Link:
    origin: str
    output: int
    target: str
    input: int


def _link(stored: Any) -> tuple[int, _Link]:
    if isinstance(stored, Mapping):
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        number, origin, output, target, position = (stored[key] for key in keys)
    else:
        number, origin, output, target, position = stored[:5]
    return number, _Link(str(origin), output, str(target), position)


@dataclass(frozen=True)
class _Scope:
    """A graph where it is used: the whole workflow, or the subgraph that a node stands for."""

    graph: _Graph
    path: tuple[str, ...] = ()  # ids of the nodes that it is in
    parent: _Scope | None = None

    @property
    def host(self) -> Mapping[str, Any]:
        """The node that stands for this subgraph."""
        assert self.parent is not None
        return self.parent.graph.nodes[self.path[-1]]

    def prompt_id(self, node: Mapping[str, Any]) -> str:
        return ":".join((*self.path, str(node["id"])))


class _Editor:
    """A workflow as the editor saves it, followed as its graphToPrompt does."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._root = _Graph(content)
        defined = (content.get("definitions") or {}).get("subgraphs") or []
        self._subgraphs = {str(each["id"]): _Graph(each) for each in defined}
        self._promoted: dict[int, _Promoted] = {}

    def prompt(self) -> Prompt:
        """The nodes that ComfyUI executes, in API format."""
        return {
            scope.prompt_id(node): {"class_type": node["type"], "inputs": self._inputs(scope, node)}
            for scope, node in self._executed(_Scope(self._root))
        }

    def _executed(self, scope: _Scope) -> Iterator[tuple[_Scope, Mapping[str, Any]]]:
        for node in scope.graph.nodes.values():
            left_out = node.get("mode", 0) in (_MUTED, _BYPASSED)
            # The editor mutes what is in a subgraph one by one, and of a subgraph in another sends what is not.
            if node["type"] in self._subgraphs and not (left_out and scope.parent is None):
                yield from self._executed(self._inside(scope, node))
            elif not left_out and (node["type"] in core.NODE_CLASS_MAPPINGS or node["type"] in ROWS or _missing(node)):
                yield scope, node

    def _inside(self, scope: _Scope, host: Mapping[str, Any]) -> _Scope:
        if host["type"] in (self._root_types(scope)):
            raise WorkflowError(f"subgraph {host['type']} contains itself")
        return _Scope(self._subgraphs[host["type"]], (*scope.path, str(host["id"])), scope)

    @staticmethod
    def _root_types(scope: _Scope) -> set[str]:
        types: set[str] = set()
        while scope.parent is not None:
            types.add(scope.host["type"])
            scope = scope.parent
        return types

    def _inputs(self, scope: _Scope, node: Mapping[str, Any]) -> dict[str, Any]:
        inputs = stored_values(node)
        if scope.parent is not None:
            own = str(node["id"])
            chosen = self._promotions(scope.host).values
            inputs |= {name: value for (inner, name), value in chosen.items() if inner == own}
        for slot in node.get("inputs") or []:
            source = self._source(scope, node, slot, slot["type"])
            if source is not None:
                inputs[slot["name"]] = source.value if isinstance(source, _Value) else source
        return inputs

    def _source(
        self, scope: _Scope, node: Mapping[str, Any], slot: Mapping[str, Any], kind: Any
    ) -> list[Any] | _Value | None:
        """The [node id, output] or the value that an input gets over its link; None where that leads nowhere."""
        if slot.get("link") is None or slot["link"] not in scope.graph.links:
            return None
        link = scope.graph.links[slot["link"]]
        if link.origin == _INPUTS and scope.parent is not None:
            return self._from_host(scope, scope.graph.inputs[link.output], kind)
        return self._output(scope, scope.graph.nodes[link.origin], link.output, kind)

    def _from_host(self, scope: _Scope, given: Mapping[str, Any], kind: Any) -> list[Any] | _Value | None:
        """As _source, of an input of the subgraph."""
        host, outer = scope.host, scope.parent
        assert outer is not None
        slot = _slot(host, given["name"])
        if slot is not None and slot.get("link") is not None:
            return self._source(outer, host, slot, kind)
        if outer.parent is not None:
            chosen = self._promotions(outer.host).values.get((str(host["id"]), given["name"]), _NOTHING)
            if chosen is not _NOTHING:
                return _Value(chosen)
        value = self._promotions(host).inputs.get(given["name"], _NOTHING)
        return None if value is _NOTHING else _Value(value)

    def _output(self, scope: _Scope, node: Mapping[str, Any], output: int, kind: Any) -> list[Any] | _Value | None:
        """As _source, of a node's output, through reroutes, bypassed nodes and subgraphs."""
        mode, node_type = node.get("mode", 0), node["type"]
        if mode == _MUTED:
            return None
        if mode == _BYPASSED:
            through = _bypassed(node, output, kind)
            return None if through is None else self._source(scope, node, through, through["type"])
        if node_type in self._subgraphs:
            inner = self._inside(scope, node)
            named = inner.graph.outputs[output].get("linkIds") or []
            links = [inner.graph.links[each] for each in named if each in inner.graph.links]
            if not links:
                return None
            if links[0].origin == _INPUTS:
                return self._from_host(inner, inner.graph.inputs[links[0].output], kind)
            return self._output(inner, inner.graph.nodes[links[0].origin], links[0].output, kind)
        if node_type == _PRIMITIVE:
            if scope.parent is not None:
                chosen = self._promotions(scope.host).primitives.get(str(node["id"]), _NOTHING)
                if chosen is not _NOTHING:
                    return _Value(chosen)
            return _Value(node["widgets_values"][0])
        if node_type == _REROUTE:
            return self._source(scope, node, node["inputs"][0], kind)
        return [scope.prompt_id(node), output]

    def _promotions(self, host: Mapping[str, Any]) -> _Promoted:
        """The values that a subgraph's node has for widgets inside."""
        if id(host) not in self._promoted:
            self._promoted[id(host)] = self._read_promotions(host)
        return self._promoted[id(host)]

    def _read_promotions(self, host: Mapping[str, Any]) -> _Promoted:
        graph, promoted = self._subgraphs[host["type"]], _Promoted()
        sources: dict[tuple[str, str], str] = {}  # inner node and widget -> input of the subgraph
        for given in graph.inputs:
            for node, slot in _targets(graph, given):
                name = self._widget(node, slot, promoted.inputs, given["name"])
                if name is not None:
                    sources.setdefault((str(node["id"]), name), given["name"])
        stored = host.get("widgets_values")
        values: list[Any] = list(stored) if isinstance(stored, list) else []
        for name, value in zip(promoted.inputs, values, strict=False):
            if value is not None:
                promoted.inputs[name] = value
        properties = host.get("properties") or {}
        for refused in reversed(properties.get("proxyWidgetErrorQuarantine") or []):
            (inner, name), value = refused["originalEntry"][:2], refused.get("hostValue")
            if inner == _HOST and value is not None and name in promoted.inputs:
                promoted.inputs[name] = value
        # Before front end 1.47 a promoted widget was named by the node that has it, in no relation to inputs.
        for index, (inner, widget, *_) in enumerate(properties.get("proxyWidgets") or []):
            if index >= len(values) or values[index] is None:
                continue
            self._promote(graph, promoted, sources, str(inner), _LEGACY_PREFIX.sub("", widget), values[index])
        return promoted

    def _promote(
        self, graph: _Graph, promoted: _Promoted, sources: Mapping[tuple[str, str], str], inner: str, widget: str,
        value: Any,
    ) -> None:  # fmt: skip
        """Notes a value for a widget that a node's property names."""
        if inner == _HOST:
            if widget in promoted.inputs:
                promoted.inputs[widget] = value
        elif (inner, widget) in sources:
            promoted.inputs[sources[inner, widget]] = value
        elif inner in graph.nodes and graph.nodes[inner]["type"] == _PRIMITIVE:
            promoted.primitives[inner] = value
        elif inner in graph.nodes and not widget.startswith("$$"):
            promoted.values[inner, widget] = value

    def _widget(
        self, node: Mapping[str, Any], slot: Mapping[str, Any], inputs: dict[str, Any], given: str
    ) -> str | None:
        """The widget behind an inner node's input, whose value a subgraph's input begins with; None where none is.

        inputs: the values by input of the subgraph; that of `given` is set if it is its first.
        """
        if node["type"] in self._subgraphs:
            values = self._promotions(node).inputs
            name = slot["name"]
        elif node["type"] in core.NODE_CLASS_MAPPINGS or node["type"] in ROWS:
            values = stored_values(node)
            name = (slot.get("widget") or {}).get("name", slot["name"])
        else:
            return None
        if name not in values:
            return None
        inputs.setdefault(given, values[name])
        return str(name)


@dataclass
class _Promoted:
    """Values that the node of a subgraph has for widgets inside."""

    inputs: dict[str, Any] = field(default_factory=dict)  # by input of the subgraph
    values: dict[tuple[str, str], Any] = field(default_factory=dict)  # by inner node and widget
    primitives: dict[str, Any] = field(default_factory=dict)  # by inner PrimitiveNode


def _targets(graph: _Graph, given: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The inner nodes, with their inputs, that an input of a subgraph leads to."""
    for number in given.get("linkIds") or []:
        link = graph.links.get(number)
        node = graph.nodes.get(link.target) if link else None
        for slot in (node or {}).get("inputs") or []:
            if slot.get("link") == number and node is not None:
                yield node, slot


def _missing(node: Mapping[str, Any]) -> bool:
    """Whether a node that ComfyUI does not have gives others something, as notes do not and no reroute of its own."""
    gives = any(output.get("links") for output in node.get("outputs") or [])
    return gives and node["type"] not in (_PRIMITIVE, _REROUTE)


def _slot(node: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    return next((slot for slot in node.get("inputs") or [] if slot["name"] == name), None)


def _bypassed(node: Mapping[str, Any], output: int, kind: Any) -> Mapping[str, Any] | None:
    """The input that replaces an output of a bypassed node."""
    slots = _all_slots(node)
    own = node["outputs"][output]["type"]
    if kind in _ANY:
        return slots[output if len(slots) > output else 0] if slots else None
    if output < len(slots) and _connects(slots[output]["type"], own) and _connects(slots[output]["type"], kind):
        return slots[output]
    exact = (slot for slot in slots if slot["type"] == kind)
    fitting = (slot for slot in slots if _connects(slot["type"], own) and _connects(slot["type"], kind))
    return next(exact, None) or next(fitting, None)


def _all_slots(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A node's inputs in the order of its class, of which a file has only those that are linked or no widgets."""
    stored = {slot["name"]: slot for slot in node.get("inputs") or []}
    if node["type"] not in core.NODE_CLASS_MAPPINGS:
        return list(stored.values())
    defined = {name: {"name": name, "type": kind} for name, kind, _ in class_inputs(node["type"])}
    return [*({**slot, **stored.pop(name, {})} for name, slot in defined.items()), *stored.values()]


def _connects(one: Any, other: Any) -> bool:
    """Whether the editor lets inputs and outputs of these types be linked."""
    if one in _ANY or other in _ANY:
        return True
    return bool(set(str(one).lower().split(",")) & set(str(other).lower().split(",")))
