"""Changes to a workflow that may make it fit, the least costly first."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from ...native.client import RunnerError
from ...native.placement import AUTO, CPU
from ...native.planning import Advice, Plan, Shortage
from ...native.weights import WeightFileError, read_header
from ..components.build import diffusion_model
from ..loaders.files import model_names, model_path
from .loaders import loader_nodes
from .walk import Change, Prompt, changed

Planned = Callable[[Prompt], Plan]
_LATENTS = ("EmptySD3LatentImage", "EmptyLatentImage")  # ComfyUI's nodes with `width` and `height`
_GRID = 64  # pixels
_SMALLER = (0.75, 0.5)  # of each side


def advice(prompt: Prompt, shortage: Shortage, planned: Planned) -> list[Advice]:
    """The changes with which the workflow fits, each planned; one of each kind.

    planned: makes the plan of a prompt.
    """
    advised: list[Advice] = []
    kinds = {"size", "tiles"} if shortage.loading else set()  # smaller pictures do not help where weights do not fit
    for kind, words, change in _changes(prompt):
        if kind not in kinds:
            plan = _planned(prompt, change, planned)
            if plan is not None and plan.fits:
                kinds.add(kind)
                advised.append(Advice(words, change, plan.peaks))
    return advised


def _planned(prompt: Prompt, change: Change, planned: Planned) -> Plan | None:
    """The plan with a change; None where it cannot be made, as a file that it names may be any."""
    try:
        return planned(changed(prompt, change))
    except (WeightFileError, RunnerError, OSError):
        return None


def _changes(prompt: Prompt) -> Iterator[tuple[str, str, Change]]:
    """Candidates: kind, words, inputs to set."""
    nodes = list(loader_nodes(prompt))
    parts = [(node, loader, part, inputs) for node, loader, inputs in nodes for part in loader.parts]
    for node, loader, part, inputs in parts:
        if part.tiles and (inputs.get("tiling") == "off" or inputs.get("tile_size")):
            words = f"{loader.title} (node {node}): tiling auto, tile_size 0"
            yield "tiles", words, {node: {"tiling": "auto", "tile_size": 0}}
    for node, loader, inputs in nodes:
        if loader.releases and inputs.get("after_use") == "keep":
            yield "release", f"{loader.title} (node {node}): after_use release", {node: {"after_use": "release"}}
    for node, loader, part, inputs in sorted(parts, key=lambda each: each[2].cpu_advice):
        device = f"{part.prefix}device"
        if part.cpu_advice and inputs.get(device) not in (None, AUTO, CPU):
            kind = f"{loader.node_id} {part.prefix}"
            yield kind, f"{loader.title} (node {node}): {device} CPU", {node: {device: CPU}}
    for node, loader, part, inputs in parts:
        weights = f"{part.prefix}weights"
        if part.streams and inputs.get(weights) in ("device", "disk"):
            yield "stream", f"{loader.title} (node {node}): {weights} ram", {node: {weights: "ram"}}
    for node, loader, inputs in nodes:
        if loader.files:
            for name in _smaller_files(loader.files, str(inputs.get("model_name"))):
                yield "file", f"{loader.title} (node {node}): the file {name}", {node: {"model_name": name}}
    yield from _smaller_pictures(prompt)


def _smaller_files(folder: str, name: str) -> Iterator[str]:
    """The files of a folder with the same model in fewer bytes, the largest first."""
    sizes = {}
    for other in model_names(folder):
        with suppress(OSError):  # gone meanwhile
            sizes[other] = os.path.getsize(model_path(folder, other))
    limit, model = sizes.get(name, 0), None
    for other in sorted((each for each in sizes if sizes[each] < limit), key=lambda each: -sizes[each]):
        with suppress(WeightFileError, OSError):
            model = model or _model(folder, name)
            if _model(folder, other) == model:
                yield other


def _model(folder: str, name: str) -> Any:
    """The kind of model in a file: ComfyUI's class and the shapes of all weights."""
    model, weights = diffusion_model(read_header(model_path(folder, name)))
    shapes = {name: shape for name, (shape, _) in weights.shapes().items()}
    return type(model.model_config), type(model), shapes


def _smaller_pictures(prompt: Prompt) -> Iterator[tuple[str, str, Change]]:
    for class_type in _LATENTS:
        for node, described in prompt.items():
            if not isinstance(described, dict) or described.get("class_type") != class_type:
                continue
            inputs = described.get("inputs") or {}
            sides = [side for side in (inputs.get("width"), inputs.get("height")) if isinstance(side, int)]
            if len(sides) == 2:
                for factor in _SMALLER:
                    width, height = (max(_GRID, int(side * factor) // _GRID * _GRID) for side in sides)
                    words = f"{class_type} (node {node}): {width} x {height} pixels"
                    yield "size", words, {node: {"width": width, "height": height}}
