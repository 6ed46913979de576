"""Words for a scene, in many phrasings."""

from __future__ import annotations

import random

from .scenes import OPPOSITE, Scene

RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "on top of"),
    "below": ("below", "under", "beneath"),
}
PLACES = {  # of the first and the second shape
    "left of": (("on the left", "on the right"), ("at the left", "at the right")),
    "right of": (("on the right", "on the left"), ("at the right", "at the left")),
    "above": (("at the top", "at the bottom"), ("on the top", "on the bottom")),
    "below": (("at the bottom", "at the top"), ("on the bottom", "on the top")),
}
OPENINGS = ("", "", "", "a picture of ", "a drawing of ", "an image of ", "draw ", "a photo of ")


def plain_caption(scene: Scene) -> str:
    """The one caption of a scene that tests and workflows use: "a red circle left of a green square on ..."."""
    ground = f"on a {scene.background} background"
    if scene.relation is None:
        return f"a {scene.shapes[0]} {ground}"
    first, second = scene.shapes
    return f"a {first} {scene.relation} a {second} {ground}"


def random_caption(scene: Scene, rng: random.Random) -> str:
    """One of many ways to say a scene."""
    what = f"a {scene.shapes[0]}" if scene.relation is None else _pair(scene, rng)
    if scene.relation is None and rng.random() < 0.2:
        what += rng.choice((" in the middle", " in the center"))
    if rng.random() < 0.2:
        what = what.removeprefix("a ")
    ground = f"a {scene.background} background"
    if rng.random() < 0.15:
        return f"{ground} with {what}"
    opening = rng.choice(OPENINGS)
    end = rng.choice((f" on {ground}", f" on {ground}", f" on {ground}", f", {scene.background} background"))
    return opening + what + end + rng.choice(("", "", "."))


def _pair(scene: Scene, rng: random.Random) -> str:
    assert scene.relation is not None
    (first, second), relation = scene.shapes, scene.relation
    if rng.random() < 0.5:
        first, second, relation = second, first, OPPOSITE[relation]
    if rng.random() < 0.7:
        return f"a {first} {rng.choice(RELATION_WORDS[relation])} a {second}"
    here, there = rng.choice(PLACES[relation])
    return f"a {first} {here} and a {second} {there}"
