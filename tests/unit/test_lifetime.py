"""Weights of a component that is gone: when they are unloaded while others come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.pack import part

lifetime = part("nodes.components.lifetime")


class Model:
    """Weights as an engine has them, without any; what is done to them is noted."""

    def __init__(self, done: list[str], weights: str, device: str, files: str = "") -> None:
        self.weights, self.file_weights = SimpleNamespace(digest=weights), SimpleNamespace(digest=files or weights)
        self.placement = SimpleNamespace(device=device, residency="device")
        self._done = done

    def load(self, *_: Any) -> None:
        self._done.append(f"load {self.weights.digest}")

    def unload(self, digest: str | None = None) -> None:
        self._done.append(f"unload {digest or self.weights.digest}")


class Owner:
    """Stands for a component."""


class Scene:
    """Lifetimes whose orphans are unloaded only where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lifetime, "_GRACE", 1e6)
        self.lifetimes = lifetime.ProcessLifetimes()
        self.done: list[str] = []

    def weights(self, owner: Owner, name: str, device: str, files: str = "") -> Any:
        return lifetime.LoadedWeights(Model(self.done, name, device, files), owner, self.lifetimes)

    def orphan(self, name: str, device: str, files: str = "") -> None:
        """Weights that are loaded and whose component is gone."""
        owner = Owner()
        load(self.weights(owner, name, device, files))
        del owner
        self.done.clear()


def load(weights: Any) -> None:
    weights.load(lambda *_: None, lambda: False)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Any:
    scene = Scene(monkeypatch)
    yield scene
    scene.lifetimes._end()


def test_weights_that_nobody_has_go_before_others_come(scene: Any) -> None:
    scene.orphan("a", "GPU")
    owner = Owner()
    load(scene.weights(owner, "b", "CPU"))
    assert scene.done == ["unload a", "load b"]


def test_weights_that_another_has_next_stay(scene: Any) -> None:
    """Opened again from another workflow, a model is not read again."""
    scene.orphan("a", "GPU")
    owners = Owner(), Owner()
    heir, encoder = scene.weights(owners[0], "a", "GPU"), scene.weights(owners[1], "b", "CPU")
    load(encoder)
    load(heir)
    scene.lifetimes.unload_orphans()
    assert scene.done == ["load b", "load a"]


def test_weights_in_the_way_of_what_computes_before_go(scene: Any) -> None:
    """A plan has one model there at a time; neither does the computer have both."""
    scene.orphan("a", "GPU")
    owners = Owner(), Owner()
    heir, other = scene.weights(owners[0], "a", "GPU"), scene.weights(owners[1], "b", "GPU")
    load(other)
    load(heir)
    assert scene.done == ["unload a", "load b", "load a"]


def test_files_that_are_loaded_with_other_changes_stay_meanwhile(scene: Any) -> None:
    scene.orphan("a", "GPU", files="f")
    owner = Owner()
    load(scene.weights(owner, "a with a LoRA", "GPU", files="f"))
    assert scene.done == ["load a with a LoRA", "unload a"]
