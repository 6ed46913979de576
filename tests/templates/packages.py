"""The templates of the package comfyui-workflow-templates-json that name local models, and the files they name."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "comfyui_workflow_templates_json"
_MODEL_FILES = (".safetensors", ".sft", ".gguf", ".pth", ".pt", ".ckpt")


@dataclass(frozen=True)
class Template:
    """A workflow of ComfyUI's editor. files: those that its nodes name in `properties.models`, as (folder, name)."""

    name: str
    content: Mapping[str, Any]
    files: tuple[tuple[str, str], ...]

    def files_of(self, prompt: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """Those files, and what loaders name in its prompt alone, as widgets of subgraphs do, in their usual folder."""
        folders = {node["type"]: folder for node in nodes_of(self.content) for folder, _ in _models_of(node)}
        listed = {name for _, name in self.files}
        more = [
            (folders[node["class_type"]], value)
            for node in prompt.values()
            if node["class_type"] in folders
            for value in node["inputs"].values()
            if isinstance(value, str) and value.endswith(_MODEL_FILES) and value not in listed
        ]
        return (*self.files, *dict.fromkeys(more))


def installed() -> Path:
    """The folder of the templates that ComfyUI at hand has brought. Raises FileNotFoundError where there are none."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"{PACKAGE} is not installed: pip install comfyui-workflow-templates-json")
    return Path(found.origin).parent / "templates"


def templates(folder: Path) -> list[Template]:
    """Those of a folder that name local models, by name."""
    found = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, Mapping) and "nodes" in content:
            files = dict.fromkeys(_named(content))
            if files:
                found.append(Template(path.stem, content, tuple(files)))
    return found


def nodes_of(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All nodes, those of subgraphs among them."""
    yield from content.get("nodes", ())
    for subgraph in (content.get("definitions") or {}).get("subgraphs", ()):
        yield from nodes_of(subgraph)


def _named(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for node in nodes_of(content):
        yield from _models_of(node)


def _models_of(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The files of a node: folder and name."""
    for model in (node.get("properties") or {}).get("models") or ():
        if model.get("directory") and model.get("name"):
            yield model["directory"], model["name"]
