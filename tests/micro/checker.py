"""Whether a picture shows what was asked, from its pixels alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from .drawing import outline
from .scenes import COLOURS, KINDS, Scene

# Also told apart, although no caption asks for it: what the micro LoRA turns every shape into.
PALETTE = {**COLOURS, "pink": (250, 120, 190)}
BORDER = 0.06  # of the side: the ring that must be background
FOREIGN = 60.0  # RGB distance from the background at which a pixel belongs to a shape
LARGEST_DISTANCE = 70.0  # RGB distance at which a colour is no longer the named one
SMALLEST_AREA = 0.02  # of the picture; less is a speck
MOST_SPECKS = 0.01  # of the picture
LEAST_PURE = 0.8  # of a shape's or the border's pixels must be the colour asked for
LEAST_OVERLAP = 0.78  # intersection over union with the ideal shape


@dataclass(frozen=True)
class Found:
    """A shape seen in a picture; its centre is in pixels, `overlap` is with the ideal shape of that kind."""

    colour: str | None
    kind: str | None
    overlap: float
    x: float
    y: float


def faults(picture: Image.Image, scene: Scene) -> list[str]:
    """Faults of a picture of `scene`, one line each; empty when it is right."""
    pixels = np.asarray(picture.convert("RGB"), np.float32)  # [height, width, 3]
    wrong = _background_faults(pixels, scene.background)
    found, specks = find_shapes(pixels)
    if specks > MOST_SPECKS:
        wrong.append(f"{specks:.1%} of the picture is specks")
    if len(found) != len(scene.shapes):
        return [*wrong, f"{len(found)} shapes instead of {len(scene.shapes)}"]
    if scene.relation is not None:
        found = _in_order(found, scene.relation)
        if not found:
            return [*wrong, f"no shape is clearly {scene.relation} the other"]
    for asked, seen in zip(scene.shapes, found, strict=True):
        if seen.colour != asked.colour:
            wrong.append(f"the {asked} is {seen.colour or 'of no clear colour'}")
        if seen.kind != asked.kind:
            wrong.append(f"the {asked} is {seen.kind or 'no clear shape'} (overlap {seen.overlap:.2f})")
    return wrong


def find_shapes(pixels: np.ndarray) -> tuple[list[Found], float]:
    """The shapes in [height, width, 3] RGB values of 0 to 255, and the part of the picture that is specks."""
    mask = np.linalg.norm(pixels - np.median(_border(pixels), axis=0), axis=-1) > FOREIGN  # [height, width]
    labels, _ = ndimage.label(mask)
    areas = np.bincount(labels.ravel())[1:] / mask.size  # of each connected region, in pictures
    found = [_describe(pixels, labels == 1 + i) for i in np.flatnonzero(areas >= SMALLEST_AREA)]
    return found, float(areas[areas < SMALLEST_AREA].sum())


def name_colour(values: np.ndarray) -> str | None:
    """The palette's name for [pixels, 3] RGB values, None when they are no clear colour."""
    names = list(PALETTE)
    distances = np.linalg.norm(values[:, None] - np.array(list(PALETTE.values()), np.float32), axis=-1)
    nearest = np.where(distances.min(axis=1) <= LARGEST_DISTANCE, distances.argmin(axis=1), len(names))
    counts = np.bincount(nearest, minlength=len(names) + 1)
    best = int(counts[:-1].argmax())
    return names[best] if counts[best] >= LEAST_PURE * len(values) else None


def _border(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    ring = np.ones((height, width), bool)
    thick = max(1, round(BORDER * min(height, width)))
    ring[thick:-thick, thick:-thick] = False
    return pixels[ring]  # [pixels, 3]


def _background_faults(pixels: np.ndarray, asked: str) -> list[str]:
    seen = name_colour(_border(pixels))
    return [] if seen == asked else [f"the background is {seen or 'of no clear colour'}, not {asked}"]


def _describe(pixels: np.ndarray, region: np.ndarray) -> Found:
    rows, columns = np.nonzero(region)
    inside = ndimage.binary_erosion(region, iterations=2)  # leaves the smooth edge out
    values = pixels[inside if inside.any() else region]
    kind, overlap = _kind(region[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    return Found(name_colour(values), kind, overlap, float(columns.mean()), float(rows.mean()))


def _kind(region: np.ndarray) -> tuple[str | None, float]:
    """The kind whose ideal shape fills the region's bounding box best, and intersection over union with it."""
    height, width = region.shape
    if not 0.8 <= height / width <= 1.25:
        return None, 0.0
    overlaps = {kind: _overlap(region, _ideal(kind, width, height)) for kind in KINDS}
    best = max(overlaps, key=lambda kind: overlaps[kind])
    return (best if overlaps[best] >= LEAST_OVERLAP else None), overlaps[best]


def _ideal(kind: str, width: int, height: int) -> np.ndarray:
    return np.asarray(_stencil(kind).resize((width, height), Image.Resampling.BOX)) > 127


@cache
def _stencil(kind: str, side: int = 256) -> Image.Image:
    picture = Image.new("L", (side, side))
    pen = ImageDraw.Draw(picture)
    if kind == "circle":
        pen.ellipse((0, 0, side - 1, side - 1), fill=255)
    else:
        pen.polygon(outline(kind, side / 2, side / 2, side / 2), fill=255)
    return picture


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def _in_order(found: list[Found], relation: str) -> list[Found]:
    """Two shapes, the one that is `relation` the other first; empty when they stand diagonally."""
    across, down = abs(found[0].x - found[1].x), abs(found[0].y - found[1].y)
    horizontal = relation in ("left of", "right of")
    if (across < 2 * down) if horizontal else (down < 2 * across):
        return []
    return sorted(found, key=lambda f: f.x if horizontal else f.y, reverse=relation in ("right of", "below"))
