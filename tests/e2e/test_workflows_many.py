"""Prompt after prompt on one server: what is encoded again, and what the runner holds in the end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.comfy_server import Client, changed, eventually, node_id, workflow

TEXT_TO_IMAGE = workflow("text_to_image")
LORA = workflow("lora")
SIZES = ((128, 128), (96, 160), (160, 96), (64, 64), (128, 192))
MODELS = ("F16.gguf", "Q8_0.gguf", "Q4_0.gguf", "fp8_e4m3fn.safetensors")


def held(comfyui: Client) -> int:
    """Private bytes of the runner once ComfyUI has unloaded all models."""
    comfyui.send("/free", {"unload_models": True, "free_memory": True})
    eventually(lambda: not comfyui.mapped_models(), "the end of all mappings of models")
    runner = comfyui.runner()
    assert runner is not None
    return int(runner.memory_full_info().uss)


def prompt(number: int) -> dict[str, Any]:
    """Another model, size, place of the weights, LoRA and text than the one before."""
    base = LORA if number % 5 == 4 else TEXT_TO_IMAGE
    width, height = SIZES[number % len(SIZES)]
    return changed(
        base,
        {
            "GGMLDiffusionModel": {
                "model_name": f"flux1-schnell-micro-{MODELS[number % len(MODELS)]}",
                "device": "CPU",
                "weights": ("auto", "device", "disk")[number % 3],
            },
            "GGMLTextEncoders": {"weights": ("auto", "device", "disk")[(number + 1) % 3]},
            "EmptySD3LatentImage": {"width": width, "height": height},
            "CLIPTextEncode": {"text": f"a red circle on a blue background, number {number}"},
            "KSampler": {"seed": number, "steps": 1},
        },
    )


@pytest.mark.turns(2)
def test_fifty_prompts_leave_nothing_behind(comfyui: Client) -> None:
    for number in range(12):  # by then all that a process of Python and ggml keeps for good is there
        comfyui.run(prompt(number))
    before, process = held(comfyui), comfyui.runner()
    for number in range(12, 62):
        comfyui.run(prompt(number))
    assert comfyui.runner() == process
    assert held(comfyui) <= 1.02 * before


def test_only_a_changed_prompt_is_encoded_again(comfyui: Client) -> None:
    encoder, sampler = node_id(TEXT_TO_IMAGE, "CLIPTextEncode"), node_id(TEXT_TO_IMAGE, "KSampler")
    comfyui.run(changed(TEXT_TO_IMAGE, {"KSampler": {"seed": 700}}))
    cached = comfyui.run(changed(TEXT_TO_IMAGE, {"KSampler": {"seed": 701}})).cached
    assert encoder in cached
    assert sampler not in cached
    other = {"CLIPTextEncode": {"text": "a white cross on a black background"}, "KSampler": {"seed": 701}}
    cached = comfyui.run(changed(TEXT_TO_IMAGE, other)).cached
    assert not {encoder, sampler} & cached
    assert node_id(TEXT_TO_IMAGE, "GGMLTextEncoders") in cached
