"""Core's other nodes around ours, over HTTP: batches, tiles, masks, the sampler in parts, another device."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.comfy_server import Client, JobFailed, Workflow, changed, node_id, workflow

TEXT_TO_IMAGE = workflow("text_to_image")
IMAGE_TO_IMAGE = workflow("image_to_image")
PROMPT = TEXT_TO_IMAGE["4"]["inputs"]["text"]


def added(base: Workflow, **nodes: tuple[str, dict[str, Any]]) -> Workflow:
    """A copy of a workflow with nodes put in, or in the place of others: id=(class, inputs)."""
    result = copy.deepcopy(base)
    for key, (class_type, inputs) in nodes.items():
        result[key.removeprefix("n")] = {"class_type": class_type, "inputs": inputs}
    return result


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference in levels of 0 to 255."""
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def test_a_batch_of_two(comfyui: Client) -> None:
    """The first has the noise it would have alone."""
    first, second = comfyui.pictures(comfyui.run(changed(TEXT_TO_IMAGE, {"EmptySD3LatentImage": {"batch_size": 2}})))
    assert difference(first, comfyui.draw(TEXT_TO_IMAGE)) < 1
    assert difference(first, second) > 1


@pytest.mark.parametrize("by", ["VAEDecodeTiled", "GGMLVAE"])
def test_decoding_in_tiles(comfyui: Client, by: str) -> None:
    if by == "GGMLVAE":
        wanted = changed(TEXT_TO_IMAGE, {by: {"tiling": "on", "tile_size": 64, "overlap": 16}})
    else:
        sizes = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
        wanted = added(TEXT_TO_IMAGE, n8=(by, {"samples": ["7", 0], "vae": ["3", 0], **sizes}))
    events = comfyui.follow(wanted)
    tiles = [data["max"] for kind, data in events if kind == "progress" and data["node"] == "8"]
    assert tiles[-1] == 9
    assert comfyui.draw(wanted).shape == (128, 128, 3)


@pytest.mark.parametrize("how", ["SetLatentNoiseMask", "VAEEncodeForInpaint"])
def test_inpainting_changes_what_the_mask_shows(comfyui: Client, how: str) -> None:
    """The upper half is masked; the lower one stays what the VAE makes of the loaded picture."""
    mask = np.zeros((128, 128), np.uint8)
    mask[:64] = 255
    comfyui.upload("mask.png", Image.fromarray(mask))
    sources = {"n20": ("LoadImageMask", {"image": "mask.png", "channel": "red"})}
    if how == "SetLatentNoiseMask":
        masked = added(IMAGE_TO_IMAGE, **sources, n21=(how, {"samples": ["6", 0], "mask": ["20", 0]}))
    else:
        inputs = {"pixels": ["10", 0], "vae": ["3", 0], "mask": ["20", 0], "grow_mask_by": 6}
        masked = added(IMAGE_TO_IMAGE, **sources, n21=(how, inputs))
    painted = comfyui.draw(changed(masked, {"KSampler": {"latent_image": ["21", 0], "denoise": 1.0}}))
    coded = comfyui.draw(changed(IMAGE_TO_IMAGE, {"VAEDecode": {"samples": ["6", 0]}}))
    assert difference(painted[88:], coded[88:]) < difference(painted[:40], coded[:40]) / 2


def test_the_sampler_in_parts(comfyui: Client) -> None:
    """SamplerCustomAdvanced with CLIPTextEncodeFlux and FluxGuidance, which schnell ignores, is KSampler at CFG 1."""
    sampler = TEXT_TO_IMAGE[node_id(TEXT_TO_IMAGE, "KSampler")]["inputs"]
    wanted = added(
        TEXT_TO_IMAGE,
        n4=("CLIPTextEncodeFlux", {"clip": ["2", 0], "clip_l": PROMPT, "t5xxl": PROMPT, "guidance": 3.5}),
        n20=("FluxGuidance", {"conditioning": ["4", 0], "guidance": 2.5}),
        n21=("BasicGuider", {"model": ["1", 0], "conditioning": ["20", 0]}),
        n22=("RandomNoise", {"noise_seed": sampler["seed"]}),
        n23=("KSamplerSelect", {"sampler_name": "euler"}),
        n24=("BasicScheduler", {"model": ["1", 0], "scheduler": "simple", "steps": sampler["steps"], "denoise": 1.0}),
        n7=(
            "SamplerCustomAdvanced",
            {
                "noise": ["22", 0],
                "guider": ["21", 0],
                "sampler": ["23", 0],
                "sigmas": ["24", 0],
                "latent_image": ["6", 0],
            },
        ),
    )
    del wanted["5"]
    np.testing.assert_array_equal(comfyui.draw(wanted), comfyui.draw(TEXT_TO_IMAGE))


def test_vulkan_draws_what_the_cpu_draws(comfyui: Client) -> None:
    """On the first Vulkan device, which on a machine without a GPU is the software driver that `dev.py test` offers."""
    small = changed(TEXT_TO_IMAGE, {"EmptySD3LatentImage": {"width": 64, "height": 64}, "KSampler": {"steps": 2}})
    cpu, vulkan = (
        comfyui.draw(changed(small, {"GGMLDiffusionModel": {"device": device}})) for device in ("CPU", "Vulkan0")
    )
    assert difference(cpu, vulkan) < 4


def test_a_card_is_checked_only_where_there_is_one(comfyui: Client) -> None:
    """The node's error; tests/faults/test_card_check.py checks lavapipe."""
    with pytest.raises(JobFailed, match="There is no GPU to check"):
        comfyui.run({"1": {"class_type": "GGMLCardCheck", "inputs": {"device": "CPU"}}})


def test_the_devices_are_listed(comfyui: Client) -> None:
    job = comfyui.run({"1": {"class_type": "GGMLDevices", "inputs": {}}})
    text = "".join(job.outputs["1"]["text"])
    assert "CPU: " in text
    assert "for the diffusion model" in text
