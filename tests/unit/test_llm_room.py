"""Room for a language model: models on its device leave until it fits, those elsewhere stay."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from native.placement import Placement
from tests.pack import part

lifetime = part("nodes.components.lifetime")


class Held:
    """A model that takes so many bytes of a device's memory."""

    def __init__(self, device: str, nbytes: int, free: dict[str, int]) -> None:
        self.placement, self._nbytes, self._free = Placement(device), nbytes, free
        self.weights = self.file_weights = SimpleNamespace(digest=str(id(self)))

    def load(self, *_: Any) -> None:
        self._free[self.placement.device] -= self._nbytes

    def unload(self, *_: Any) -> None:
        self._free[self.placement.device] += self._nbytes


def loaded(lifetimes: Any, free: dict[str, int], *placed: tuple[str, int]) -> list[Any]:
    """The weights of models, with what keeps them there."""
    models = [Held(device, nbytes, free) for device, nbytes in placed]
    found = [lifetime.LoadedWeights(model, model, lifetimes) for model in models]
    for each in found:
        each.load(lambda _done, _total: None, lambda: False)
    return found


def test_only_as_much_leaves_as_is_needed_and_only_there() -> None:
    free = {"Vulkan0": 100, "CPU": 100}
    lifetimes = lifetime.ProcessLifetimes()
    kept = loaded(lifetimes, free, ("Vulkan0", 40), ("Vulkan0", 40), ("CPU", 90))
    assert free == {"Vulkan0": 20, "CPU": 10}
    lifetimes.evict("Vulkan0", 20, lambda: free["Vulkan0"])
    assert free["Vulkan0"] == 20
    lifetimes.evict("Vulkan0", 50, lambda: free["Vulkan0"])
    assert free == {"Vulkan0": 60, "CPU": 10}
    lifetimes.evict("Vulkan0", 500, lambda: free["Vulkan0"])
    assert free == {"Vulkan0": 100, "CPU": 10}
    for each in kept:
        each.unload()
