"""Changes to a workflow that may make it fit, those first that cost the least."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...native.planning import Advice, Plan, Shortage
from ..loaders.files import model_names, model_path
from .search import LOADERS
from .walk import Change, Prompt, changed

Planned = Callable[[Prompt], Plan]
_MOVABLE = ("GGMLLanguageModel", "GGMLVAE", "GGMLTextEncoders")  # to the CPU
_GRID = 64  # pixels
_SMALLER = (0.75, 0.5)  # of each side


def advice(prompt: Prompt, lacking: Shortage, planned: Planned) -> list[Advice]:
    """The changes with which the workflow fits, each planned; one of each kind. lacking: what does not fit."""
    found: list[Advice] = []
    kinds = {"size", "tiles"} if lacking.loading else set()  # those are no help to weights
    for kind, words, change in _changes(prompt):
        if kind not in kinds:
            plan = planned(changed(prompt, change))
            if plan.shortage is None:
                kinds.add(kind)
                found.append(Advice(words, change, plan.peaks))
    return found


def _changes(prompt: Prompt) -> Iterator[tuple[str, str, Change]]:
    """The kind of each change, its words and the inputs it sets."""
    ours = {node: made for node, made in prompt.items() if isinstance(made, dict) and "inputs" in made}

    def of(class_type: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return ((node, made["inputs"]) for node, made in ours.items() if made.get("class_type") == class_type)

    for node, inputs in of("GGMLVAE"):
        if inputs.get("tiling") == "off" or inputs.get("tile_size"):
            words = f"GGML VAE (node {node}): tiling auto, tile_size 0"
            yield "tiles", words, {node: {"tiling": "auto", "tile_size": 0}}
    for node, inputs in of("GGMLLanguageModel"):
        if inputs.get("after_use") == "keep":
            yield "release", f"GGML Language Model (node {node}): after_use release", {node: {"after_use": "release"}}
    for class_type in _MOVABLE:
        for node, inputs in of(class_type):
            if inputs.get("device") not in (None, "auto", "CPU"):
                yield class_type, f"{LOADERS[class_type]} (node {node}): device CPU", {node: {"device": "CPU"}}
    for node, inputs in of("GGMLDiffusionModel"):
        if inputs.get("weights") in ("device", "disk"):
            yield "stream", f"GGML Diffusion Model (node {node}): weights ram", {node: {"weights": "ram"}}
        for name in _smaller_files(str(inputs.get("model_name"))):
            words = f"GGML Diffusion Model (node {node}): the file {name}"
            yield "file", words, {node: {"model_name": name}}
    for class_type in ("EmptySD3LatentImage", "EmptyLatentImage"):
        for node, inputs in of(class_type):
            sides = [side for side in (inputs.get("width"), inputs.get("height")) if isinstance(side, int)]
            if len(sides) == 2:
                for factor in _SMALLER:
                    width, height = (max(_GRID, int(side * factor) // _GRID * _GRID) for side in sides)
                    words = f"{class_type} (node {node}): {width} x {height} pixels"
                    yield "size", words, {node: {"width": width, "height": height}}


def _smaller_files(name: str) -> list[str]:
    """The other files of diffusion models that are smaller, the largest first."""
    sizes = {other: os.path.getsize(model_path("diffusion_models", other)) for other in model_names("diffusion_models")}
    limit = sizes.get(name, 0)
    return sorted((other for other in sizes if sizes[other] < limit), key=lambda other: -sizes[other])
