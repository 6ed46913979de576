"""Results of templates' small runs: which are kept, and how they are compared with core's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests import pack
from tests.templates import small_prompts
from tests.templates.comparing import BEST, Unlike, alike
from tests.templates.report import ALIKE

pack.comfy()

from comfy_extras.nodes_hunyuan3d import voxel_to_mesh_surfnet  # noqa: E402


def _mesh(field: torch.Tensor, **of_vertices: torch.Tensor) -> dict[str, Any]:
    vertices, faces = voxel_to_mesh_surfnet(field)
    return {"vertices": vertices, "faces": faces, "of_vertices": of_vertices}


def _ball(radius: float) -> torch.Tensor:
    """A field of 20 cells a side that is 0.5 at this distance from its middle."""
    axes = torch.meshgrid(*[torch.arange(20.0) - middle for middle in (9.37, 9.61, 9.23)], indexing="ij")
    return radius + 0.5 - torch.stack(axes).square().sum(dim=0).sqrt()


def test_a_field_that_differs_in_its_last_digits_has_the_same_surface() -> None:
    distance = 6.34365  # of a point of the grid, which changes sides there: vertices come, and others get other numbers
    expected, found = _mesh(_ball(distance - 1e-4)), _mesh(_ball(distance + 1e-4))
    assert len(expected["vertices"]) == len(found["vertices"]) - 2
    assert ALIKE < alike([found], [expected]) < BEST


def test_the_order_of_vertices_and_faces_is_no_difference() -> None:
    expected = _mesh(_ball(6.2))
    order = torch.randperm(len(expected["vertices"]), generator=torch.Generator().manual_seed(0))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    turned = {**expected, "vertices": expected["vertices"][order], "faces": place[expected["faces"]].flip(0)}
    assert alike([turned], [expected]) == BEST


@pytest.mark.parametrize("other", ["larger", "moved", "half", "more", "noise"])
def test_another_surface_is_found_unlike(other: str) -> None:
    expected = _mesh(_ball(6.2))
    noise = torch.randn(20, 20, 20, generator=torch.Generator().manual_seed(0))
    fields = {
        "larger": _ball(6.8), "moved": _ball(6.2).roll(1, 0), "half": _ball(6.2).where(torch.arange(20) < 10, -1.0),
        "more": _ball(6.2).where(torch.arange(20) > 1, 1.0), "noise": noise,
    }  # fmt: skip
    assert alike([_mesh(fields[other])], [expected]) < ALIKE


def test_a_part_of_a_surface_is_found_unlike() -> None:
    whole = _mesh(_ball(6.2))
    part = {**whole, "faces": whole["faces"][: len(whole["faces"]) * 3 // 4]}
    assert alike([part], [whole]) < ALIKE
    assert alike([whole], [part]) < ALIKE


def test_faces_between_other_vertices_are_found_unlike() -> None:
    expected = _mesh(_ball(6.2))
    faces = expected["faces"].clone()
    faces[:, 2] = faces[:, 2].roll(len(faces) // 2)
    assert alike([{**expected, "faces": faces}], [expected]) < ALIKE


def test_colours_of_vertices_are_compared_where_they_are() -> None:
    field = _ball(6.2)
    colours = _mesh(field)["vertices"] * 0.5 + 0.5
    expected = _mesh(field, colors=colours)
    assert alike([_mesh(field, colors=colours + 1e-4)], [expected]) > 70
    assert alike([_mesh(field, colors=colours.flip(0))], [expected]) < ALIKE
    with pytest.raises(Unlike, match="have nothing, and core's colors"):
        alike([_mesh(field)], [expected])


def test_an_empty_mesh_is_not_like_another() -> None:
    empty = _mesh(torch.zeros(4, 4, 4))
    assert alike([empty], [empty]) == BEST
    with pytest.raises(Unlike, match="0 faces"):
        alike([empty], [_mesh(_ball(6.2))])


def test_tensors_are_compared_element_by_element() -> None:
    expected = torch.linspace(0, 1, 100)
    assert alike([expected + 0.01], [expected]) == pytest.approx(40, abs=0.01)
    with pytest.raises(Unlike, match="a result is 50, and core's 100"):
        alike([expected[:50]], [expected])
    with pytest.raises(Unlike, match="no numbers"):
        alike([expected / 0], [expected])


class _Node:
    def __init__(self, *results: str, is_output: bool = False) -> None:
        self.RETURN_TYPES, self.OUTPUT_NODE = results, is_output


_CLASSES = {
    "Load": _Node("MODEL"), "Picture": _Node("IMAGE"), "Pose": _Node("POSE_KEYPOINT"), "Draw": _Node("IMAGE"),
    "Blend": _Node("IMAGE"), "Sample": _Node("LATENT"), "Decode": _Node("IMAGE"), "Save": _Node(is_output=True),
}  # fmt: skip


def _prompt(**nodes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    named = {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}
    return named | {"save": {"class_type": "Save", "inputs": {"images": [[*named][-1], 0]}}}


def test_of_what_is_drawn_the_numbers_are_kept() -> None:
    pose = {
        "m": ("Load", {}), "p": ("Picture", {}), "k": ("Pose", {"model": ["m", 0], "image": ["p", 0]}),
        "d": ("Draw", {"keypoints": ["k", 0], "width": 4}),
    }  # fmt: skip
    blended = pose | {"b": ("Blend", {"image1": ["p", 0], "image2": ["d", 0]})}
    sampled = blended | {
        "s": ("Sample", {"model": ["m", 0], "image": ["b", 0]}),
        "i": ("Decode", {"samples": ["s", 0]}),
    }
    plain = {"p": ("Picture", {}), "b": ("Blend", {"image1": ["p", 0], "image2": ["p", 0]})}
    found = {}
    for name, nodes in (("pose", pose), ("blended", blended), ("sampled", sampled), ("plain", plain)):
        made, classes = small_prompts.keeping(_prompt(**nodes), _CLASSES, "a")
        kept = [node["inputs"]["value"][0] for node in made.values() if node["class_type"] == "KeepTensors"]
        assert len(classes) == len(kept)
        found[name] = kept
    assert found == {"pose": ["k"], "blended": ["k", "p"], "sampled": ["i"], "plain": ["b"]}


def test_core_takes_weights_as_the_file_has_them() -> None:
    loader = {"class_type": "UNETLoader", "inputs": {"unet_name": "a", "weight_dtype": "fp8_e4m3fn_fast"}}
    assert small_prompts.smaller({"1": loader})["1"]["inputs"] == {"unet_name": "a", "weight_dtype": "default"}


def test_a_prompt_is_cut_and_an_expression_is_not() -> None:
    text = "a + b if a > b else a - b if a > 2 * b else a * b if b > 3 * a else 1"
    nodes = {"1": {"class_type": "ComfyMathExpression", "inputs": {"expression": text, "text": text}}}
    assert small_prompts.smaller(nodes)["1"]["inputs"] == {"expression": text, "text": text[:60]}
