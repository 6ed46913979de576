"""Progress, previews, interruption and /free of a server at work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.comfy_server import Client, Interrupted, changed, eventually, node_id, picture, workflow

STEPS = 4
TEXT_TO_IMAGE = workflow("text_to_image")
SAMPLER = node_id(TEXT_TO_IMAGE, "KSampler")


def sampling(events: list[tuple[str, Any]], node: str = SAMPLER) -> list[tuple[int, int]]:
    """The progress that a node reported: (value, of)."""
    return [(data["value"], data["max"]) for kind, data in events if kind == "progress" and data["node"] == node]


def test_progress_and_previews_arrive(comfyui: Client) -> None:
    wanted = changed(TEXT_TO_IMAGE, {"KSampler": {"seed": 100}})
    events = comfyui.follow(wanted, preview_method="latent2rgb")
    assert sampling(events)[-STEPS:] == [(step, STEPS) for step in range(1, STEPS + 1)]
    nodes = [data["node"] for kind, data in events if kind == "executing"]
    assert nodes.index(SAMPLER) < nodes.index(node_id(wanted, "VAEDecode"))
    previews = [picture(data) for kind, data in events if kind == "preview"]
    assert len(previews) >= STEPS - 1  # the last one may be left out
    assert all(preview.ndim == 3 and preview.std() > 0 for preview in previews)


def test_an_interrupt_ends_sampling_and_nothing_else(comfyui: Client) -> None:
    comfyui.draw(TEXT_TO_IMAGE)
    before = comfyui.runner()
    endless = changed(TEXT_TO_IMAGE, {"KSampler": {"steps": 5000, "seed": 101}})

    def interrupt(kind: str, data: Any) -> None:
        if kind == "progress" and data["node"] == SAMPLER and data["value"] == 1:
            comfyui.send("/interrupt", {})

    events = comfyui.follow(endless, interrupt)
    (prompt,) = {data["prompt_id"] for kind, data in events if kind == "execution_interrupted"}
    with pytest.raises(Interrupted):
        comfyui.wait(prompt)
    assert sampling(events)[-1][0] < 5000
    assert comfyui.draw(TEXT_TO_IMAGE).shape == (128, 128, 3)
    assert comfyui.runner() == before


def test_free_gives_the_memory_back(comfyui: Client) -> None:
    """The runner maps the model files while they are loaded, and none of them once ComfyUI was told to unload."""
    first = comfyui.draw(changed(TEXT_TO_IMAGE, {"KSampler": {"seed": 102}}))
    assert TEXT_TO_IMAGE["1"]["inputs"]["model_name"] in comfyui.mapped_models()
    comfyui.send("/free", {"unload_models": True, "free_memory": True})
    eventually(lambda: not comfyui.mapped_models(), "the end of all mappings of models")
    again = comfyui.draw(changed(TEXT_TO_IMAGE, {"KSampler": {"seed": 102}}))
    np.testing.assert_array_equal(first, again)
