"""The checker that judges the micro FLUX's pictures, on pictures drawn right and wrong on purpose."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.micro.captions import plain_caption, random_caption
from tests.micro.checker import PALETTE, faults
from tests.micro.drawing import draw, paint, place
from tests.micro.scenes import COLOURS, HELD_OUT, KINDS, OPPOSITE, Scene, Shape, held_out_scenes, random_scene

SCENES = [random_scene(random.Random(i), 1 + i % 2) for i in range(60)]
PAIRS = [scene for scene in SCENES if scene.relation]
SIZES = (96, 128, 256)


def drawn(scene: Scene, seed: int = 0) -> Image.Image:
    return draw(scene, SIZES[seed % len(SIZES)], random.Random(seed))


def other(values: list[str], *taken: str) -> str:
    return next(value for value in values if value not in taken)


@pytest.mark.parametrize("seed", range(len(SCENES)))
def test_a_right_picture_has_no_faults(seed: int) -> None:
    assert faults(drawn(SCENES[seed], seed), SCENES[seed]) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", COLOURS)
def test_every_shape_is_known_on_every_background(colour: str, kind: str) -> None:
    for background in COLOURS:
        if background != colour:
            scene = Scene(background, (Shape(colour, kind),))
            assert faults(drawn(scene, 1), scene) == []


@pytest.mark.parametrize("seed", range(20))
def test_a_blurred_and_noisy_picture_is_still_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    soft = drawn(SCENES[seed], 1).filter(ImageFilter.GaussianBlur(1.0))
    noisy = np.clip(np.asarray(soft) + rng.normal(0, 8, (*soft.size, 3)), 0, 255).astype(np.uint8)
    assert faults(Image.fromarray(noisy), SCENES[seed]) == []


@pytest.mark.parametrize("seed", range(len(SCENES)))
def test_the_wrong_colour_is_seen(seed: int) -> None:
    scene = SCENES[seed]
    taken = {scene.background, *(shape.colour for shape in scene.shapes)}
    wrong = replace(scene.shapes[-1], colour=other(list(COLOURS), *taken))
    picture = drawn(replace(scene, shapes=(*scene.shapes[:-1], wrong)), seed)
    assert faults(picture, scene) == [f"the {scene.shapes[-1]} is {wrong.colour}"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("asked", KINDS)
def test_the_wrong_kind_is_seen(asked: str, kind: str) -> None:
    picture = drawn(Scene("white", (Shape("blue", kind),)), 1)
    assert bool(faults(picture, Scene("white", (Shape("blue", asked),)))) == (kind != asked)


@pytest.mark.parametrize("seed", range(20))
def test_the_wrong_background_is_seen(seed: int) -> None:
    scene = SCENES[seed]
    ground = other(list(COLOURS), scene.background, *(shape.colour for shape in scene.shapes))
    assert faults(drawn(replace(scene, background=ground), 1), scene) == [
        f"the background is {ground}, not {scene.background}"
    ]


@pytest.mark.parametrize("scene", PAIRS, ids=plain_caption)
def test_a_swapped_relation_is_seen(scene: Scene) -> None:
    assert scene.relation is not None
    assert faults(drawn(replace(scene, relation=OPPOSITE[scene.relation]), 1), scene)


@pytest.mark.parametrize("scene", PAIRS, ids=plain_caption)
def test_the_other_axis_is_seen(scene: Scene) -> None:
    turned = "above" if scene.relation in ("left of", "right of") else "left of"
    said = faults(drawn(replace(scene, relation=turned), 1), scene)
    assert said == [f"no shape is clearly {scene.relation} the other"]


@pytest.mark.parametrize("scene", PAIRS, ids=plain_caption)
def test_a_missing_or_added_shape_is_seen(scene: Scene) -> None:
    alone = Scene(scene.background, scene.shapes[:1])
    assert "1 shapes instead of 2" in faults(drawn(alone, 1), scene)
    assert "2 shapes instead of 1" in faults(drawn(scene, 1), alone)


def test_two_shapes_of_each_others_colours_are_seen() -> None:
    asked = Scene("white", (Shape("red", "circle"), Shape("blue", "square")), "left of")
    mixed = Scene("white", (Shape("blue", "circle"), Shape("red", "square")), "left of")
    assert len(faults(drawn(mixed, 1), asked)) == 2


@pytest.mark.parametrize("background", COLOURS)
def test_an_empty_picture_is_not_right(background: str) -> None:
    scene = Scene(background, (Shape(other(list(COLOURS), background), "circle"),))
    assert faults(Image.new("RGB", (128, 128), COLOURS[background]), scene) == ["0 shapes instead of 1"]


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_not_right(seed: int) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert all(faults(Image.fromarray(noise), scene) for scene in SCENES[:10])


def test_specks_and_a_two_coloured_shape_are_seen() -> None:
    scene = Scene("white", (Shape("red", "square"),))
    picture = drawn(scene, 1)
    for x in range(4, 124, 8):
        picture.paste(COLOURS["black"], (x, 10, x + 4, 14))
    assert any("specks" in fault for fault in faults(picture, scene))
    red, blue = place(scene, random.Random(0))[0], COLOURS["blue"]
    halves = paint(COLOURS["white"], [red, red._replace(colour=blue, radius=red.radius * 0.6)], 128)
    assert faults(halves, scene) == ["the red square is of no clear colour"]


def test_the_colour_of_the_lora_is_told_from_all_others() -> None:
    for background in COLOURS:
        figures = place(Scene(background, (Shape("red", "circle"),)), random.Random(0))
        picture = paint(COLOURS[background], [figures[0]._replace(colour=PALETTE["pink"])], 128)
        assert faults(picture, Scene(background, (Shape("pink", "circle"),))) == []


def test_held_out_scenes_are_forty_different_ones_that_training_never_draws() -> None:
    scenes = held_out_scenes(20, 20)
    assert len(set(map(plain_caption, scenes))) == 40
    held = {(scene.background, shape) for scene in scenes for shape in scene.shapes}
    assert all(shape in HELD_OUT[background] for background, shape in held)
    rng = random.Random(0)
    seen = {(s.background, shape) for i in range(3000) for s in [random_scene(rng, 1 + i % 2)] for shape in s.shapes}
    assert not seen & {(background, shape) for background, shapes in HELD_OUT.items() for shape in shapes}
    assert len(seen) == len(COLOURS) * (len(COLOURS) - 1) * len(KINDS) - sum(map(len, HELD_OUT.values()))


def test_captions_name_everything_that_is_asked() -> None:
    rng = random.Random(0)
    for scene in SCENES:
        for caption in (plain_caption(scene), random_caption(scene, rng)):
            assert scene.background in caption
            assert all(str(shape) in caption for shape in scene.shapes)
