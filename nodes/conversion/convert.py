"""Converts prompts: every model loader that the table knows becomes the one of this pack, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import nodes as core

from ...native.placement import AUTO
from .report import Converted, Kept, Report
from .table import MODELS, ROWS, Carried, Dropped, Row
from .widgets import class_inputs

Prompt = Mapping[str, Any]  # the API's format: node id -> {"class_type", "inputs"}
_OURS = "GGML"
_READABLE = (".gguf", ".safetensors", ".sft")
_MISSING: Any = object()


class KeepsIts(Exception):
    """Raised for a loader that is not converted. The message is a sentence without its subject."""


@dataclass(frozen=True)
class Swap:
    """What a loader becomes."""

    row: Row
    inputs: Mapping[str, Any]  # of ours; links as they were
    outputs: Mapping[int, int]  # theirs -> ours; those that ours has not are left out
    notes: tuple[str, ...] = ()  # sentences about inputs that have no like

    def lacks(self, output: int) -> bool:
        """Whether ours has no output like this one of theirs."""
        return output not in self.outputs


def convert(prompt: Prompt) -> tuple[Prompt, Report]:
    """The prompt with loaders of this pack, and what became of each loader. The prompt given is not changed.

    Ids stay. A loader with a linked output that ours has not, such as the CLIP vision model of a checkpoint, stays
    beside ours for that output alone, with an id of its own.
    """
    converted, kept, swaps = [], [], {}
    for node, described in prompt.items():
        if not _is_described(described):
            continue
        try:
            swap = swap_of(described["class_type"], described["inputs"], _is_link)
        except KeepsIts as why:
            kept.append(Kept(str(node), described["class_type"], str(why)))
            continue
        if swap is not None:
            swaps[str(node)] = swap
    beside = {
        node: _free_id(prompt, node) for node, output in _links(prompt) if node in swaps and swaps[node].lacks(output)
    }
    changed: dict[str, Any] = {}
    for node, described in prompt.items():
        key = str(node)
        if key not in swaps:
            changed[node] = _relinked(described, swaps, beside)
            continue
        swap = swaps[key]
        ours = {**described, "class_type": swap.row.ours, "inputs": dict(swap.inputs)}
        changed[node] = _relinked(ours, swaps, beside)
        notes = list(swap.notes)
        if key in beside:
            changed[beside[key]] = _relinked(described, swaps, beside)
            notes.append(stays_beside(swap))
        converted.append(Converted(key, swap.row.foreign, swap.row.ours, tuple(notes)))
    return changed, Report(tuple(converted), tuple(kept))


def swap_of(
    class_type: str, inputs: Mapping[str, Any], is_linked: Callable[[Any], bool], offered: bool = True
) -> Swap | None:
    """What a node becomes; None for one that is no foreign loader.

    inputs: its own. is_linked: whether a value of them stands for a link. offered: whether a file must be there.
    Raises KeepsIts for a loader that cannot be converted.
    """
    row = ROWS.get(class_type)
    if row is None or row.ours not in core.NODE_CLASS_MAPPINGS:
        if is_loader(class_type):
            raise KeepsIts("stays as it is, on torch: this pack has no loader like it.")
        return None
    offers = {name: (kind, options) for name, kind, options in class_inputs(row.ours)}
    ours: dict[str, Any] = {}
    notes: list[str] = []
    placed: list[str] = []
    for name, each in row.inputs.items():
        value = inputs.get(name, _MISSING)
        if value is _MISSING:
            continue
        if isinstance(each, Dropped):
            _drop(name, "over a link" if is_linked(value) else value, each, placed, notes)
            continue
        ours[each.name] = value if is_linked(value) else _carried(name, value, each, offers[each.name], offered)
    if not ours:
        raise KeepsIts("stays as it is: it names no file.")
    left = [name for name in inputs if name not in row.inputs]
    if left:
        notes.append(f"{_listed(left)} of {class_type} has no like in this pack and is left out.")
    if placed:
        notes.append(f"{_listed(placed)} of {class_type} is left out: the placement is auto.")
    return Swap(row, {**_placement(offers), **row.given, **ours}, output_map(row), tuple(notes))


def output_map(row: Row) -> dict[int, int]:
    """Our output for each of a foreign loader: the same one where its type is the same, else the one of that type."""
    have = list(core.NODE_CLASS_MAPPINGS[row.ours].RETURN_TYPES)
    return {
        output: output if have[output : output + 1] == [kind] else have.index(kind)
        for output, kind in enumerate(row.outputs)
        if kind in have
    }


def is_loader(class_type: str) -> bool:
    """Whether a node of another makes a model of files: it puts one out and takes none."""
    node_class = core.NODE_CLASS_MAPPINGS.get(class_type)
    if node_class is None or class_type.startswith(_OURS):
        return False
    if not MODELS & {kind for kind in getattr(node_class, "RETURN_TYPES", None) or () if isinstance(kind, str)}:
        return False
    try:
        return not MODELS & {kind for _, kind, _ in class_inputs(class_type)}
    except Exception:  # another pack's code
        return False


def stays_beside(swap: Swap) -> str:
    """The note of a loader that stays for an output that ours has not."""
    lacking = [kind for output, kind in enumerate(swap.row.outputs) if swap.lacks(output)]
    what = f"its {_listed(lacking)}" if lacking else "another output"
    return f"{swap.row.foreign} stays beside {swap.row.ours} for {what}, on torch."


def _drop(name: str, value: Any, dropped: Dropped, placed: list[str], notes: list[str]) -> None:
    if value in dropped.neutral:
        return
    if dropped.keeps:
        raise KeepsIts(f"stays as it is, on torch: its {name} is {value!s:.80}, and {dropped.why}.")
    if dropped.neutral:
        notes.append(f"{name} {value!s:.80} is left out: {dropped.why}.")
    else:
        placed.append(name)


def _carried(name: str, value: Any, carried: Carried, offer: tuple[str, Mapping[str, Any]], offered: bool) -> Any:
    """Our value for a foreign one. Raises KeepsIts where ours does not offer it."""
    if isinstance(value, str):
        value = carried.values.get(value, value)
    kind, options = offer
    if kind != "COMBO" or value in options.get("options", ()) or not (offered or carried.otherwise):
        return value
    if carried.values:
        return AUTO
    if carried.otherwise:
        return carried.otherwise
    if not isinstance(value, str):
        raise KeepsIts(f"stays as it is: its {name} names no file.")
    if not value.lower().endswith(_READABLE):
        raise KeepsIts(f"stays as it is, on torch: {value:.160} is neither a GGUF nor a safetensors file.")
    raise KeepsIts(f"stays as it is: the file {value:.160} is not in this ComfyUI's model folders.")


def _placement(offers: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The inputs of ours beside its files: devices auto, others as a new node has them."""
    return {
        name: AUTO if name.endswith("device") else options["default"]
        for name, (_, options) in offers.items()
        if "default" in options
    }


def _links(prompt: Prompt) -> Iterator[tuple[str, int]]:
    """The outputs that are linked."""
    for described in prompt.values():
        if _is_described(described):
            for value in described["inputs"].values():
                if _is_link(value):
                    yield str(value[0]), value[1]


def _free_id(prompt: Prompt, node: str) -> str:
    """An id for what stays beside a node."""
    name = f"{node}-torch"
    while name in prompt:
        name += "-"
    return name


def _relinked(described: Any, swaps: Mapping[str, Swap], beside: Mapping[str, str]) -> Any:
    """A node with its links to outputs of loaders that were swapped."""
    if not _is_described(described):
        return described
    inputs = {name: _link(value, swaps, beside) for name, value in described["inputs"].items()}
    return described if inputs == described["inputs"] else {**described, "inputs": inputs}


def _link(value: Any, swaps: Mapping[str, Swap], beside: Mapping[str, str]) -> Any:
    if not _is_link(value) or str(value[0]) not in swaps:
        return value
    node, output = str(value[0]), value[1]
    ours = swaps[node].outputs.get(output)
    return [beside[node], output] if ours is None else [value[0], ours]


def _is_described(described: Any) -> bool:
    return (
        isinstance(described, Mapping)
        and isinstance(described.get("class_type"), str)
        and isinstance(described.get("inputs"), Mapping)
    )


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int) and type(value[1]) is int


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
