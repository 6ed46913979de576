"""A custom node of a test's ComfyUI: core builds small models as their files say, and a node keeps what it is given."""

from __future__ import annotations

import importlib.util
from numbers import Real
from pathlib import Path
from typing import Any

import torch

_HERE = Path(__file__).resolve().parent


def _follow() -> None:
    """By the file, as ComfyUI has another package named tests."""
    spec = importlib.util.spec_from_file_location("small_models_narrow", _HERE.parents[1] / "narrow.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.follow()


class _Any(str):
    """A type that fits every other."""

    __slots__ = ()

    def __ne__(self, _: object) -> bool:
        return False

    __hash__ = str.__hash__


class Keep:
    """Writes the tensors and meshes of what it is given, as they are, to the file `name` in the output folder.

    Of what has none, such as poses, it writes the numbers. What a node gives one by one is written together.
    """

    CATEGORY, FUNCTION, OUTPUT_NODE, INPUT_IS_LIST, RETURN_TYPES = "tests", "keep", True, True, ()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": (_Any("*"),), "name": ("STRING", {})}}

    def keep(self, value: list[Any], name: list[str]) -> dict[str, Any]:
        import folder_paths

        path = Path(folder_paths.get_output_directory()) / name[0]
        kept = [found for each in value for found in _tensors(each, 0)]
        if all(isinstance(each, str) for each in kept):
            kept += _numbers(value)
        torch.save(kept, path)
        return {"ui": {"kept": name}}


def _tensors(value: Any, depth: int) -> Any:
    """The tensors, texts and meshes in dicts, lists and the fields of objects that are no models."""
    if isinstance(value, torch.nn.Module) or hasattr(value, "patcher") or hasattr(value, "model_options"):
        return
    if isinstance(value, torch.Tensor):
        yield _plain(value)
    elif isinstance(value, str | bytes | int | float | bool | type(None)) or depth > 5:
        if isinstance(value, str):
            yield value
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _tensors(value[key], depth + 1)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each, depth + 1)
    elif hasattr(value, "get_components"):  # a video
        parts = value.get_components()
        yield from _tensors([parts.images, parts.audio], depth + 1)
    elif hasattr(value, "vertices") and hasattr(value, "faces"):
        yield from _meshes(value)
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value), depth + 1)


def _meshes(batch: Any) -> Any:
    """The meshes of a batch, without the zeros that pad them, and their textures."""
    for number, (vertices, faces) in enumerate(zip(batch.vertices, batch.faces, strict=True)):
        padded = batch.vertex_counts is not None
        count = int(batch.vertex_counts[number]) if padded else len(vertices)
        given = {"colors": batch.vertex_colors, "uvs": batch.uvs}
        yield {
            "vertices": _plain(vertices[:count]),
            "faces": _plain(faces[: int(batch.face_counts[number])] if padded else faces),
            "of_vertices": {name: _plain(each[number][:count]) for name, each in given.items() if each is not None},
        }
    if batch.texture is not None:
        yield _plain(batch.texture)


def _numbers(value: Any) -> Any:
    """The numbers of each of the dicts and lists, as a tensor."""
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value, key=str)]
    if not isinstance(value, list | tuple):
        return
    own = [float(each) for each in value if isinstance(each, Real) and not isinstance(each, bool)]
    if own:
        yield torch.tensor(own)
    for each in value:
        yield from _numbers(each)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().float().cpu().contiguous() if not tensor.is_complex() else tensor


_follow()
NODE_CLASS_MAPPINGS = {"KeepTensors": Keep}
