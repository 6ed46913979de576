"""The widgets of a node: which inputs a node's class has as widgets, and their values as the editor saves them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import nodes as core

_MAY_BE_LINKED = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
_DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
_CHOICES = ("COMBO", _DYNAMIC_COMBO)
# Those that the editor draws itself, without an input that could be linked.
_WIDGETS = (
    *_MAY_BE_LINKED, _DYNAMIC_COMBO, "BOUNDING_BOX", "BOUNDING_BOXES", "CHART", "COLOR", "COLORS", "CURVE", "GALLERIA",
    "IMAGECOMPARE", "LOAD_3D", "MARKDOWN", "PAINTER", "RANGE", "TEXTAREA",
)  # fmt: skip
_SEEDS = ("seed", "noise_seed")
_AFTER_GENERATING = ("fixed", "increment", "decrement", "randomize", "increment-wrap")  # stored behind a seed
# Nodes to which the editor adds widgets that their class does not name: the names, in order.
_ADDED_BY_EDITOR: Mapping[str, tuple[str, ...]] = {
    "CustomCombo": ("index", *(f"option{number}" for number in range(1, 100))),
}
_BUTTONS = ("upload3dmodel", "uploadExtraResources", "clear")  # of Load3D, stored as if they had values
_WITHOUT_DEFAULT: Mapping[str, Any] = {
    "INT": 0, "FLOAT": 0, "STRING": "", "BOOLEAN": False, "IMAGECOMPARE": ["", ""], "LOAD_3D": "",
}  # fmt: skip


def widget_values(node: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each widget of an editor's node, by input name; defaults where none is stored.

    Its class must be one that this ComfyUI has. Choices of texts that depend on another bring inputs of their own,
    called "choice.input".
    """
    stored = node.get("widgets_values") or []
    if isinstance(stored, Mapping):
        return dict(stored)
    values = _Stored([value for value in stored if value not in _BUTTONS])
    inputs = class_inputs(node["type"])
    given = [value for value in values.left if value not in _AFTER_GENERATING]
    # A file from before an input became one that is only linked has a value for it too.
    linked_only = [name for name, kind, options in inputs if options.get("forceInput") and kind in _MAY_BE_LINKED]
    keeps = bool(linked_only) and len(given) == sum(_is_widget(kind, {}) for _, kind, _ in inputs)
    found = dict(_values(inputs, values, "", keeps))
    return found | dict(zip(_ADDED_BY_EDITOR.get(node["type"], ()), values.left, strict=False))


def class_inputs(class_type: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """The inputs of a node's class in the editor's order: name, type ("COMBO" for a choice of texts), options."""
    node_class: Any = core.NODE_CLASS_MAPPINGS[class_type]
    described = getattr(node_class, "GET_NODE_INFO_V1", None)
    groups = described()["input"] if described else node_class.INPUT_TYPES()
    return _inputs(groups)


class _Stored:
    """Values still to be given to widgets."""

    def __init__(self, values: list[Any]) -> None:
        self.left = values

    def take(self, default: Any) -> Any:
        """The next value; a list as the editor sends one, so that it is no link."""
        value = self.left.pop(0) if self.left else default
        return {"__value__": value} if isinstance(value, list) else value

    def skip_control(self, is_choice: bool) -> None:
        """Drops what stands behind a value that changes after generating: how, and of a choice a filter of it."""
        if self.left and self.left[0] in _AFTER_GENERATING:
            self.left.pop(0)
            if is_choice and self.left and isinstance(self.left[0], str):
                self.left.pop(0)


def _inputs(groups: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    found = []
    for group in ("required", "optional"):
        for name, described in (groups.get(group) or {}).items():
            kind, options = described[0], described[1] if len(described) > 1 else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {"options": kind, **options}
            found.append((name, str(options.get("widgetType") or kind), options))
    return found


def _values(
    inputs: list[tuple[str, str, Mapping[str, Any]]], stored: _Stored, prefix: str, keeps: bool
) -> Iterator[tuple[str, Any]]:
    for name, kind, options in inputs:
        if not _is_widget(kind, options):
            if keeps and _is_widget(kind, {}):
                stored.take(None)
            continue
        value = stored.take(_default(kind, options))
        yield prefix + name, value
        if options.get("control_after_generate") or (kind == "INT" and name in _SEEDS):
            stored.skip_control(kind in _CHOICES)
        if kind == _DYNAMIC_COMBO:
            chosen: Mapping[str, Any] = next(
                (each["inputs"] for each in options["options"] if each["key"] == value), {}
            )
            yield from _values(_inputs(chosen), stored, f"{prefix}{name}.", keeps)


def _is_widget(kind: str, options: Mapping[str, Any]) -> bool:
    return kind in _WIDGETS and not options.get("forceInput")


def _default(kind: str, options: Mapping[str, Any]) -> Any:
    if "default" in options:
        return options["default"]
    if kind in _CHOICES and options.get("options"):
        first = options["options"][0]
        return first["key"] if isinstance(first, Mapping) else first
    return _WITHOUT_DEFAULT.get(kind)
