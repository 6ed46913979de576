"""The workflows of this repository, over HTTP, through a real server."""

from __future__ import annotations

import numpy as np
import pytest

from tests.comfy_server import Client, changed, node_id, workflow
from tests.micro.checker import Found, find_shapes

NAMES = ("text_to_image", "image_to_image", "lora")


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_one_picture(comfyui: Client, name: str) -> None:
    """The same seed gives the same pixels twice, computed twice; another seed gives others."""
    wanted = workflow(name)
    first = comfyui.draw(wanted)
    assert first.shape == (128, 128, 3)
    other = comfyui.draw(changed(wanted, {"KSampler": {"seed": 2}}))
    assert not np.array_equal(first, other)
    job = comfyui.run(changed(wanted, {"SaveImage": {"filename_prefix": "again"}}))
    assert node_id(wanted, "KSampler") not in job.cached
    np.testing.assert_array_equal(comfyui.pictures(job)[0], first)


def test_the_lora_counts(comfyui: Client) -> None:
    """At strength zero the picture is that of the model alone; else its shape is pink."""
    with_lora = workflow("lora")
    off = {"LoraLoader": {"strength_model": 0.0, "strength_clip": 0.0}}
    same = {name: with_lora[node_id(with_lora, name)]["inputs"] for name in ("GGMLDiffusionModel", "CLIPTextEncode")}
    plain = {
        "GGMLDiffusionModel": {"model_name": same["GGMLDiffusionModel"]["model_name"]},
        "CLIPTextEncode": {"text": same["CLIPTextEncode"]["text"]},
    }
    alone = comfyui.draw(changed(workflow("text_to_image"), plain))
    np.testing.assert_array_equal(comfyui.draw(changed(with_lora, off)), alone)
    assert [shape.colour for shape in shapes(alone)] == ["red"]
    assert [shape.colour for shape in shapes(comfyui.draw(with_lora))] == ["pink"]


def shapes(picture: np.ndarray) -> list[Found]:
    return find_shapes(picture.astype(np.float32))[0]


def test_the_loaded_picture_counts(comfyui: Client) -> None:
    """With little denoising what comes out is close to what went in, decoded; with all of it, it is not."""
    wanted = workflow("image_to_image")
    encoded = [node_id(wanted, "VAEEncode"), 0]
    loaded = comfyui.draw(changed(wanted, {"VAEDecode": {"samples": encoded}})).astype(float)
    kept, redrawn = (
        np.abs(comfyui.draw(changed(wanted, {"KSampler": {"denoise": denoise}})) - loaded).mean()
        for denoise in (0.1, 1.0)
    )
    assert kept < redrawn / 2
