"""The search of the mode `fit`: sets inputs that are on `auto` so that a workflow fits and is fastest.

Inputs that the user has set stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from ...native.placement import AUTO, CPU, MIB, RAM
from ...native.planning import Machine, Plan
from ...native.quota import QuotaExceeded
from ..loaders.device_inputs import first_gpu
from .loaders import LOADERS, Loader, LoaderPart, loader_nodes
from .unknown import Inputs
from .walk import Change, Prompt, changed

_TILES = (1024, 768, 512, 384, 256, 192, 128)  # pixels
_QUICKER = 0.9  # of the seconds; less is within what a plan knows
_OVERLAP = 64  # pixels, the default of the VAE's node; a tile is at least twice as large
Options = Sequence[dict[str, Any]]  # inputs to set, the fastest first
Place = tuple[str, str]  # of a model in a prompt: its loader node, and the prefix of its inputs there


def search(prompt: Prompt, machine: Machine, planned: Callable[[Prompt], Plan]) -> tuple[Change, Plan]:
    """The inputs to set and the plan with them; the plan has a shortage where nothing fits.

    Each component starts with the option that is fastest as a rule (weights in the GPU's memory, streamed through it,
    on the CPU; the whole picture, large tiles, small ones) and moves on to its next one where its phase lacks memory.
    Where rates of the devices are known, other devices are tried then, and the quickest that fits is chosen.
    """
    loaders = {node: loader for node, loader, _ in loader_nodes(prompt)}
    options: dict[Place, Options] = {
        (node, part.prefix): list(_options(part, inputs, machine))
        for node, loader, inputs in loader_nodes(prompt)
        for part in loader.parts
    }
    chosen = dict.fromkeys(options, 0)
    while True:
        change = _change(options, chosen)
        plan = planned(changed(prompt, change))
        if plan.shortage is None:
            return _quickest(prompt, machine, planned, options, chosen, plan)
        place = _next_to_move(loaders, (plan.shortage.loader, plan.shortage.prefix), options, chosen)
        if place is None:
            return change, plan
        chosen[place] += 1


def _quickest(
    prompt: Prompt, machine: Machine, planned: Callable[[Prompt], Plan], options: Mapping[Place, Options],
    chosen: dict[Place, int], plan: Plan,
) -> tuple[Change, Plan]:  # fmt: skip
    """The choice that fits, with models moved to another device where the workflow is quicker for it and still fits."""
    for place, others in options.items():
        for number in _on_other_devices(others, chosen[place]):
            tried = {**chosen, place: number}
            if plan.seconds is None or _device(others[number]) not in machine.rates:
                continue
            try:
                other = planned(changed(prompt, _change(options, tried)))
            except QuotaExceeded:  # what was found fits
                return _change(options, chosen), plan
            if other.shortage is None and other.seconds is not None and other.seconds < _QUICKER * plan.seconds:
                chosen, plan = tried, other
    return _change(options, chosen), plan


def _on_other_devices(options: Options, chosen: int) -> Iterator[int]:
    """The first option for each device that comes after the chosen one; those before it have turned out not to fit."""
    seen = {_device(options[chosen])}
    for number, option in list(enumerate(options))[chosen + 1 :]:
        if _device(option) not in seen:
            seen.add(_device(option))
            yield number


def _device(option: Mapping[str, Any]) -> Any:
    return next((value for name, value in option.items() if name.endswith("device")), None)


def _change(options: Mapping[Place, Options], chosen: Mapping[Place, int]) -> Change:
    """The inputs of the chosen options, by node."""
    change: dict[str, dict[str, Any]] = {}
    for (node, prefix), number in chosen.items():
        if options[node, prefix][number]:
            change.setdefault(node, {}).update(options[node, prefix][number])
    return change


def describe_choice(prompt: Prompt, change: Change) -> str:
    """The choices in words."""
    parts = []
    for node, inputs in change.items():
        title = LOADERS[prompt[node]["class_type"]].title
        values = ", ".join(f"{key} {value}" for key, value in inputs.items())
        parts.append(f"{title} (node {node}): {values}")
    return "; ".join(parts)


def _next_to_move(
    loaders: Mapping[str, Loader], short: Place, options: Mapping[Place, Options], chosen: Mapping[Place, int]
) -> Place | None:
    """The model that moves on to its next option: the one that is short of memory, or another where it has none left.

    Others move in the order of the table.
    """
    order = [(loader.node_id, part.prefix) for loader in LOADERS.values() for part in loader.parts]
    others = sorted(options, key=lambda place: order.index((loaders[place[0]].node_id, place[1])))
    for place in (short, *others):
        if place in options and chosen[place] + 1 < len(options[place]):
            return place
    return None


def _options(part: LoaderPart, inputs: Inputs, machine: Machine) -> Iterator[dict[str, Any]]:
    """The inputs to set for each way of placing a model, the fastest first."""
    gpu = first_gpu(list(machine.devices))
    device_input, weights_input = f"{part.prefix}device", f"{part.prefix}weights"
    devices = [inputs.get(device_input)]
    if devices == [AUTO]:
        devices = [CPU] if gpu == CPU or inputs.get("engine") == "torch" else [gpu, CPU]
    if not part.residencies:
        yield from ({device_input: device} if device != inputs.get(device_input) else {} for device in devices)
        return
    residencies = part.residencies if inputs.get(weights_input, AUTO) == AUTO else (inputs[weights_input],)
    for device, residency in product(devices, residencies):
        placement = {device_input: device, weights_input: residency}
        if residency == RAM and device != CPU and not inputs.get("budget"):
            placement["budget"] = machine.capacity.get(str(device), 0) // MIB  # blocks that fit stay on the GPU
        for tiling in _tilings(part, inputs, device):
            yield {key: value for key, value in {**placement, **tiling}.items() if inputs.get(key, AUTO) != value}


def _tilings(part: LoaderPart, inputs: Inputs, device: Any) -> Iterator[dict[str, Any]]:
    """The tilings to try, the fastest first; on the CPU `auto` is 512 pixels, or less where those do not fit."""
    if not part.tiles or inputs.get("tiling", AUTO) != AUTO or inputs.get("tile_size") or device == CPU:
        yield {}
        return
    yield {"tiling": "off"}
    overlap = inputs.get("overlap", _OVERLAP)
    for tile in _TILES:
        if isinstance(overlap, int) and tile >= 2 * overlap:
            yield {"tiling": "on", "tile_size": tile}
