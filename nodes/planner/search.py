"""The search of the mode `fit`: sets inputs that are on `auto` so that a workflow fits and is fastest.

Inputs that the user has set stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from ...native.placement import AUTO, CPU, MIB, RAM
from ...native.planning import Machine, Plan
from ..loaders.device_inputs import first_gpu
from .loaders import LOADERS, Loader, loader_nodes
from .unknown import Inputs
from .walk import Change, Prompt, changed

_TILES = (1024, 768, 512, 384, 256, 192, 128)  # pixels
_OVERLAP = 64  # pixels, the default of the VAE's node; a tile is at least twice as large
Options = Sequence[dict[str, Any]]  # inputs to set, the fastest first


def search(prompt: Prompt, machine: Machine, planned: Callable[[Prompt], Plan]) -> tuple[Change, Plan]:
    """The inputs to set and the plan with them; the plan has a shortage where nothing fits.

    Each component starts with its fastest option (weights in the GPU's memory, streamed through it, on the CPU; the
    whole picture, large tiles, small ones) and moves on to its next one where its phase lacks memory.
    """
    loaders = {node: loader for node, loader, _ in loader_nodes(prompt)}
    options: dict[str, Options] = {
        node: list(_options(loader, inputs, machine)) for node, loader, inputs in loader_nodes(prompt)
    }
    chosen = dict.fromkeys(options, 0)
    while True:
        change = {node: options[node][chosen[node]] for node in options if options[node][chosen[node]]}
        plan = planned(changed(prompt, change))
        if plan.shortage is None:
            return change, plan
        node = _next_to_move(loaders, plan.shortage.loader, options, chosen)
        if node is None:
            return change, plan
        chosen[node] += 1


def describe_choice(prompt: Prompt, change: Change) -> str:
    """The choices in words."""
    parts = []
    for node, inputs in change.items():
        title = LOADERS[prompt[node]["class_type"]].title
        values = ", ".join(f"{key} {value}" for key, value in inputs.items())
        parts.append(f"{title} (node {node}): {values}")
    return "; ".join(parts)


def _next_to_move(
    loaders: Mapping[str, Loader], short: str, options: Mapping[str, Options], chosen: Mapping[str, int]
) -> str | None:
    """The loader that moves on to its next option: the one that is short of memory, or another where it has none left.

    Others move in the order of the table.
    """
    order = list(LOADERS)
    others = sorted(options, key=lambda node: order.index(loaders[node].node_id))
    for node in (short, *others):
        if node in options and chosen[node] + 1 < len(options[node]):
            return node
    return None


def _options(loader: Loader, inputs: Inputs, machine: Machine) -> Iterator[dict[str, Any]]:
    """The inputs to set for each way of placing a component, the fastest first."""
    gpu = first_gpu(list(machine.devices))
    devices = [inputs.get("device")]
    if devices == [AUTO]:
        devices = [CPU] if gpu == CPU or inputs.get("engine") == "torch" else [gpu, CPU]
    if not loader.residencies:
        yield from ({"device": device} if device != inputs.get("device") else {} for device in devices)
        return
    residencies = loader.residencies if inputs.get("weights", AUTO) == AUTO else (inputs["weights"],)
    for device, residency in product(devices, residencies):
        placement = {"device": device, "weights": residency}
        if residency == RAM and device != CPU and not inputs.get("budget"):
            placement["budget"] = machine.capacity.get(str(device), 0) // MIB  # blocks that fit stay on the GPU
        for tiling in _tilings(loader, inputs, device):
            yield {key: value for key, value in {**placement, **tiling}.items() if inputs.get(key, AUTO) != value}


def _tilings(loader: Loader, inputs: Inputs, device: Any) -> Iterator[dict[str, Any]]:
    """The tilings to try, the fastest first; on the CPU `auto` is 512 pixels, or less where those do not fit."""
    if not loader.tiles or inputs.get("tiling") != AUTO or inputs.get("tile_size") or device == CPU:
        yield {}
        return
    yield {"tiling": "off"}
    overlap = inputs.get("overlap", _OVERLAP)
    for tile in _TILES:
        if isinstance(overlap, int) and tile >= 2 * overlap:
            yield {"tiling": "on", "tile_size": tile}
