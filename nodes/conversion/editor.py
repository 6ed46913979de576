"""Converts the files of ComfyUI's editor: loaders in the graph and in its subgraphs become those of this pack."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import nodes as core

from .convert import KeepsIts, Swap, stays_beside, swap_of
from .report import Converted, Kept, Report
from .table import ROWS, Carried
from .widgets import class_inputs, widget_values

_BELOW = 40  # pixels between a node and what stays beside it
# What the editor notes in a node's properties about the pack that it is from.
_OF_PACK = ("Node name for S&R", "aux_id", "cnr_id", "ver")


@dataclass(frozen=True)
class _Linked:
    """Stands for the value of an input that a link brings."""

    number: int  # of the link


def convert_workflow(content: Mapping[str, Any]) -> tuple[dict[str, Any], Report]:
    """A workflow as the editor saves it with loaders of this pack, and what became of each loader.

    Ids, links, titles and places stay, those of what is muted too. Files need not be there: the editor offers to
    download them.
    """
    result = copy.deepcopy(dict(content))
    converted: list[Converted] = []
    kept: list[Kept] = []
    subgraphs = (result.get("definitions") or {}).get("subgraphs") or []
    swapped = {}
    for graph in (result, *subgraphs):
        for node in list(graph.get("nodes") or []):
            try:
                swap = _swap(node)
                notes = _apply(result, graph, node, swap) if swap else []
            except KeepsIts as why:
                kept.append(Kept(str(node["id"]), node["type"], str(why)))
                continue
            if swap:
                swapped[graph.get("id"), str(node["id"])] = swap
                converted.append(Converted(str(node["id"]), swap.row.foreign, swap.row.ours, (*swap.notes, *notes)))
    for graph in (result, *subgraphs):
        for node in graph.get("nodes") or []:
            _rename_promoted(node, swapped)
    return result, Report(tuple(converted), tuple(kept))


def stored_values(node: Mapping[str, Any]) -> dict[str, Any]:
    """As widget_values, also of a foreign loader whose pack is not installed; of another such node what has names."""
    if node["type"] in core.NODE_CLASS_MAPPINGS:
        return widget_values(node)
    stored = node.get("widgets_values") or []
    names = ROWS[node["type"]].inputs if node["type"] in ROWS else ()
    return dict(stored) if isinstance(stored, Mapping) else dict(zip(names, stored, strict=False))


def _swap(node: Mapping[str, Any]) -> Swap | None:
    if node["type"] not in ROWS and node["type"] not in core.NODE_CLASS_MAPPINGS:
        return None
    values = stored_values(node) if node["type"] in ROWS else {}
    linked = {slot["name"]: _Linked(slot["link"]) for slot in _slots(node, "inputs") if slot.get("link") is not None}
    return swap_of(node["type"], values | linked, lambda value: isinstance(value, _Linked), offered=False)


def _apply(whole: dict[str, Any], graph: dict[str, Any], node: dict[str, Any], swap: Swap) -> list[str]:
    """Makes a node ours; returns notes. Raises KeepsIts, before anything is changed, where its links forbid it."""
    lacking = [
        (index, slot) for index, slot in enumerate(_slots(node, "outputs")) if swap.lacks(index) and slot.get("links")
    ]
    linked = [slot for slot in _slots(node, "inputs") if slot.get("link") is not None]
    if lacking and linked:
        raise KeepsIts("stays as it is, on torch: its file comes over a link, and an output of it has no like.")
    if lacking:
        _stay_beside(whole, graph, node, [index for index, _ in lacking])
    _outputs(graph, node, swap)
    _inputs(graph, node, swap)
    node["type"] = swap.row.ours
    node["properties"] = {
        name: value for name, value in (node.get("properties") or {}).items() if name not in _OF_PACK
    } | {_OF_PACK[0]: swap.row.ours}
    return [stays_beside(swap)] if lacking else []


def _inputs(graph: dict[str, Any], node: dict[str, Any], swap: Swap) -> None:
    """Gives a node the inputs and the widgets' values of ours."""
    widgets = class_inputs(swap.row.ours)
    kinds = {name: kind for name, kind, _ in widgets}
    carried = {value.number: name for name, value in swap.inputs.items() if isinstance(value, _Linked)}
    before = {slot["name"]: slot for slot in _slots(node, "inputs")}
    stays, goes = [], set()
    for slot in before.values():
        if slot.get("link") in carried:
            name = carried[slot["link"]]
            stays.append({"name": name, "type": kinds[name], "widget": {"name": name}, "link": slot["link"]})
        elif slot.get("link") is not None:
            goes.add(slot["link"])
    node["inputs"] = stays
    for index, slot in enumerate(stays):
        _set_link(graph, slot["link"], target_slot=index)
    _remove_links(graph, goes)
    stored = stored_values(node)
    values = {
        each.name: stored[name]
        for name, each in swap.row.inputs.items()
        if isinstance(each, Carried) and name in stored
    }
    node["widgets_values"] = [
        values.get(name)
        if isinstance(swap.inputs.get(name), _Linked)
        else swap.inputs.get(name, options.get("default"))
        for name, _, options in widgets
    ]


def _outputs(graph: dict[str, Any], node: dict[str, Any], swap: Swap) -> None:
    """Gives a node the outputs of ours, with their links."""
    ours_class: Any = core.NODE_CLASS_MAPPINGS[swap.row.ours]
    names = getattr(ours_class, "RETURN_NAMES", None) or ours_class.RETURN_TYPES
    ours = [
        {"name": name, "type": kind, "slot_index": index, "links": []}
        for index, (name, kind) in enumerate(zip(names, ours_class.RETURN_TYPES, strict=True))
    ]
    for index, slot in enumerate(_slots(node, "outputs")):
        if swap.lacks(index):
            continue
        for link in slot.get("links") or []:
            ours[swap.outputs[index]]["links"].append(link)
            _set_link(graph, link, origin_slot=swap.outputs[index])
    node["outputs"] = ours


def _stay_beside(whole: dict[str, Any], graph: dict[str, Any], node: dict[str, Any], outputs: list[int]) -> None:
    """Adds a copy of a node for these outputs."""
    stays = copy.deepcopy(node)
    stays["id"] = _next_id(whole)
    height = node["size"][1] if isinstance(node.get("size"), list) else 100
    stays["pos"] = [node["pos"][0], node["pos"][1] + height + _BELOW]
    for index, slot in enumerate(_slots(stays, "outputs")):
        slot["links"] = (slot.get("links") or []) if index in outputs else []
        for link in slot["links"]:
            _set_link(graph, link, origin_id=stays["id"])
    for index in outputs:
        node["outputs"][index]["links"] = []
    graph["nodes"].append(stays)


def _next_id(whole: dict[str, Any]) -> int:
    """An id that no node of the workflow has."""
    subgraphs = (whole.get("definitions") or {}).get("subgraphs") or []
    ids = [node["id"] for graph in (whole, *subgraphs) for node in graph.get("nodes") or []]
    number = 1 + max([int(whole.get("last_node_id") or 0), *(int(each) for each in ids if str(each).isdigit())])
    whole["last_node_id"] = number
    for graph in subgraphs:
        if isinstance(graph.get("state"), dict):
            graph["state"]["lastNodeId"] = number
    return number


def _set_link(graph: dict[str, Any], number: int, **parts: Any) -> None:
    """Changes a link: origin_id, origin_slot or target_slot."""
    places = {"origin_id": 1, "origin_slot": 2, "target_slot": 4}
    for link in graph.get("links") or []:
        if isinstance(link, dict) and link["id"] == number:
            link.update(parts)
        elif isinstance(link, list) and link[0] == number:
            for name, value in parts.items():
                link[places[name]] = value


def _remove_links(graph: dict[str, Any], numbers: set[int]) -> None:
    if not numbers:
        return
    graph["links"] = [
        link for link in graph["links"] if (link["id"] if isinstance(link, dict) else link[0]) not in numbers
    ]
    for node in graph["nodes"]:
        for slot in _slots(node, "outputs"):
            slot["links"] = [link for link in slot.get("links") or [] if link not in numbers]
    for slot in graph.get("inputs") or []:  # of a subgraph
        slot["linkIds"] = [link for link in slot.get("linkIds") or [] if link not in numbers]


def _rename_promoted(node: dict[str, Any], swapped: Mapping[tuple[Any, str], Swap]) -> None:
    """Renames widgets of swapped nodes that the node of their subgraph shows, as front ends before 1.47 name them."""
    promoted = (node.get("properties") or {}).get("proxyWidgets")
    if not isinstance(promoted, list):
        return
    for entry in promoted:
        swap = swapped.get((node["type"], str(entry[0])))
        each = swap.row.inputs.get(entry[1]) if swap else None
        if isinstance(each, Carried):
            entry[1] = each.name


def _slots(node: Mapping[str, Any], which: str) -> Iterator[dict[str, Any]]:
    yield from node.get(which) or []
