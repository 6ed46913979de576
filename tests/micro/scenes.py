"""Scenes that the micro FLUX draws: one or two coloured shapes on a background; some are held out of training."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "yellow": (250, 225, 60),
    "green": (40, 150, 70),
    "blue": (40, 80, 210),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
KINDS = ("circle", "square", "triangle", "cross")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATIONS = tuple(OPPOSITE)
HELD_OUT_PER_BACKGROUND = 4


@dataclass(frozen=True)
class Shape:
    colour: str
    kind: str

    def __str__(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Scene:
    """One shape, or two of which the first is `relation` the second ("left of", "right of", "above", "below")."""

    background: str
    shapes: tuple[Shape, ...]
    relation: str | None = None


def _held_out() -> dict[str, tuple[Shape, ...]]:
    """For each background the shapes that never stand on it in training, alone or beside another."""
    rng = random.Random(3)
    held: dict[str, tuple[Shape, ...]] = {}
    for background in COLOURS:
        shapes = [Shape(colour, kind) for colour in COLOURS if colour != background for kind in KINDS]
        held[background] = tuple(rng.sample(shapes, HELD_OUT_PER_BACKGROUND))
    return held


HELD_OUT = _held_out()


def random_scene(rng: random.Random, shapes: int) -> Scene:
    """A scene of `shapes` (1 or 2) shapes that training may see; the two differ in colour or kind."""
    background = rng.choice(tuple(COLOURS))
    colours = [colour for colour in COLOURS if colour != background]
    allowed = [
        shape for colour in colours for kind in KINDS if (shape := Shape(colour, kind)) not in HELD_OUT[background]
    ]
    chosen = tuple(rng.sample(allowed, shapes))
    return Scene(background, chosen, rng.choice(RELATIONS) if shapes == 2 else None)


def held_out_scenes(singles: int, pairs: int) -> list[Scene]:
    """Different scenes made only of what training never saw; backgrounds and relations in turn."""
    rng = random.Random(4)
    turn = list(COLOURS)
    rng.shuffle(turn)
    rounds = len(turn)
    scenes = [Scene(turn[i % rounds], (HELD_OUT[turn[i % rounds]][i // rounds],)) for i in range(singles)]
    for i in range(pairs):
        choices = list(combinations(HELD_OUT[turn[i % rounds]], 2))
        pair = random.Random(turn[i % rounds]).sample(choices, len(choices))[i // rounds]
        pair = tuple(rng.sample(pair, 2))
        scenes.append(Scene(turn[i % rounds], pair, RELATIONS[(i + i // rounds) % len(RELATIONS)]))
    return scenes
