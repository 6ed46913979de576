"""Pictures of scenes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from .scenes import COLOURS, Scene

Colour = tuple[int, int, int]
Point = tuple[float, float]
SMOOTHING = 4  # drawn this much larger, then shrunk
JITTER = 0.012  # of centres and radii, in picture sizes: the less, the sooner FLUX draws sharp outlines
ARM = 0.36  # half a cross's arm, in radii


class Figure(NamedTuple):
    """A shape in its place: centre and radius (half the side of its bounding square) in picture sizes."""

    kind: str
    colour: Colour
    x: float
    y: float
    radius: float


def place(scene: Scene, rng: random.Random) -> list[Figure]:
    """The scene's shapes in places that vary a little; a relation leaves a gap between them."""

    def figure(index: int, x: float, y: float, radius: float) -> Figure:
        shape = scene.shapes[index]
        shift = rng.uniform(-JITTER, JITTER), rng.uniform(-JITTER, JITTER)
        return Figure(shape.kind, COLOURS[shape.colour], x + shift[0], y + shift[1], radius)

    if scene.relation is None:
        return [figure(0, 0.5, 0.5, 0.32 + rng.uniform(-JITTER, JITTER))]
    near, far = (0.265, 0.735) if scene.relation in ("left of", "above") else (0.735, 0.265)
    radii = 0.19 + rng.uniform(-JITTER, JITTER), 0.19 + rng.uniform(-JITTER, JITTER)
    if scene.relation in ("left of", "right of"):
        return [figure(0, near, 0.5, radii[0]), figure(1, far, 0.5, radii[1])]
    return [figure(0, 0.5, near, radii[0]), figure(1, 0.5, far, radii[1])]


def outline(kind: str, x: float, y: float, radius: float) -> list[Point]:
    """Corners of a kind of shape other than the circle, its bounding square being `radius` around (x, y)."""
    unit: Sequence[Point] = {
        "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "triangle": [(0, -1), (1, 1), (-1, 1)],
        "cross": [
            (-ARM, -1), (ARM, -1), (ARM, -ARM), (1, -ARM), (1, ARM), (ARM, ARM),
            (ARM, 1), (-ARM, 1), (-ARM, ARM), (-1, ARM), (-1, -ARM), (-ARM, -ARM),
        ],
    }[kind]  # fmt: skip
    return [(x + radius * across, y + radius * down) for across, down in unit]


def paint(background: Colour, figures: Sequence[Figure], size: int) -> Image.Image:
    """A picture of `size` x `size` pixels with smooth edges."""
    large = size * SMOOTHING
    picture = Image.new("RGB", (large, large), background)
    pen = ImageDraw.Draw(picture)
    for f in figures:
        x, y, radius = f.x * large, f.y * large, f.radius * large
        if f.kind == "circle":
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=f.colour)
        else:
            pen.polygon(outline(f.kind, x, y, radius), fill=f.colour)
    return picture.resize((size, size), Image.Resampling.BOX)


def draw(scene: Scene, size: int, rng: random.Random) -> Image.Image:
    """A picture of the scene, `size` x `size` pixels."""
    return paint(COLOURS[scene.background], place(scene, rng), size)
