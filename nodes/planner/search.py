"""What is left on `auto` settled so that the workflow fits, the fastest first; what a user has set stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from ...native.placement import AUTO, CPU, DEVICE, MIB, RAM
from ...native.planning import Machine, Plan
from ..loaders.device_inputs import first_gpu
from .walk import Change, Prompt, changed

LOADERS = {
    "GGMLDiffusionModel": "GGML Diffusion Model",
    "GGMLTextEncoders": "GGML Text Encoders",
    "GGMLVAE": "GGML VAE",
    "GGMLLanguageModel": "GGML Language Model",
}
# Before the one in need another component moves only where that helps: encoders first, they compute once.
_YIELDING = ("GGMLLanguageModel", "GGMLTextEncoders", "GGMLVAE", "GGMLDiffusionModel")
_TILES = (1024, 768, 512, 384, 256, 192, 128)  # pixels
_OVERLAP = 64  # pixels, of the VAE's node; a tile holds it twice
Inputs = Mapping[str, Any]


def search(prompt: Prompt, machine: Machine, planned: Callable[[Prompt], Plan]) -> tuple[Change, Plan]:
    """The inputs to set and the plan with them; its shortage tells where nothing fits.

    Each component starts with what is fastest for it (in a GPU's memory, streamed through it, on the CPU; the whole
    picture, large tiles, small ones) and goes on to its next way where its phase lacks memory.
    """
    ways = {node: list(_ways(prompt[node], machine)) for node in _loaders(prompt)}
    taken = dict.fromkeys(ways, 0)
    while True:
        change = {node: ways[node][taken[node]] for node in ways if ways[node][taken[node]]}
        plan = planned(changed(prompt, change))
        if plan.shortage is None:
            return change, plan
        moving = _moving(prompt, plan.shortage.loader, ways, taken)
        if moving is None:
            return change, plan
        taken[moving] += 1


def describe_choice(prompt: Prompt, change: Change) -> str:
    """What was chosen, in words."""
    parts = []
    for node, inputs in change.items():
        name = LOADERS[prompt[node]["class_type"]]
        said = ", ".join(f"{key} {value}" for key, value in inputs.items())
        parts.append(f"{name} (node {node}): {said}")
    return "; ".join(parts)


def _loaders(prompt: Prompt) -> list[str]:
    return [
        node
        for node, made in prompt.items()
        if isinstance(made, Mapping) and made.get("class_type") in LOADERS and isinstance(made.get("inputs"), Mapping)
    ]


def _moving(prompt: Prompt, lacking: str, ways: Mapping[str, Sequence[Any]], taken: Mapping[str, int]) -> str | None:
    """The component that goes on to its next way: the one that lacks memory, or another where that has none left."""
    others = sorted(ways, key=lambda node: _YIELDING.index(prompt[node]["class_type"]))
    for node in (lacking, *others):
        if node in ways and taken[node] + 1 < len(ways[node]):
            return node
    return None


def _ways(made: Mapping[str, Any], machine: Machine) -> Iterator[dict[str, Any]]:
    """The inputs to set for each way in which a component can be placed, the fastest first."""
    inputs = made["inputs"]
    gpu = first_gpu(list(machine.devices))
    devices = [inputs.get("device")]
    if devices == [AUTO]:
        devices = [CPU] if gpu == CPU or inputs.get("engine") == "torch" else [gpu, CPU]
    if made["class_type"] == "GGMLLanguageModel":
        yield from ({"device": device} if device != inputs.get("device") else {} for device in devices)
        return
    residencies = [DEVICE, RAM] if inputs.get("weights", AUTO) == AUTO else [inputs["weights"]]
    if made["class_type"] == "GGMLVAE":  # its weights are small beside what it computes
        residencies = [inputs.get("weights", AUTO)]
    for device, residency in product(devices, residencies):
        chosen = {"device": device, "weights": residency}
        if residency == RAM and device != CPU and not inputs.get("budget"):
            chosen["budget"] = machine.capacity.get(str(device), 0) // MIB  # blocks that fit stay on the GPU
        for tiles in _tilings(made, device):
            yield {key: value for key, value in {**chosen, **tiles}.items() if inputs.get(key, AUTO) != value}


def _tilings(made: Mapping[str, Any], device: Any) -> Iterator[dict[str, Any]]:
    """On the CPU `auto` is 512 pixels, or less where those do not fit."""
    inputs = made["inputs"]
    if made["class_type"] != "GGMLVAE" or inputs.get("tiling") != AUTO or inputs.get("tile_size") or device == CPU:
        yield {}
        return
    yield {"tiling": "off"}
    overlap = inputs.get("overlap", _OVERLAP)
    for tile in _TILES:
        if isinstance(overlap, int) and tile >= 2 * overlap:
            yield {"tiling": "on", "tile_size": tile}
