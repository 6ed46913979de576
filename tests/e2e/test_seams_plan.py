"""A plan of a workflow beside what the workflow then takes, phase by phase, on the CPU and on Vulkan."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pack import part

from .plan_runners import runners_of_plans

planner, request = part("nodes.planner.planner"), part("nodes.planner.request")
measured, host = part("nodes.planner.actual"), part("nodes.components.host")
client = part("native.client.runner")
files = part("nodes.loaders.files")
diffusion, encoders, vae_nodes = (
    part("nodes.loaders.diffusion"),
    part("nodes.loaders.text_encoders"),
    part("nodes.loaders.vae"),
)

import nodes as core  # noqa: E402

MICRO = Path(__file__).parents[1] / "micro" / "models"
MIB = 1 << 20
ENOUGH = 1 << 40
DEVICES = ("CPU", "Vulkan0")
FLUX = ("F16", "Q8_0", "Q4_0")
PHASES = ("Encoding the prompt", "Sampling", "Decoding the picture")


@pytest.fixture
def limit() -> int:
    """Bytes of the GPU."""
    return 64 * MIB


@pytest.fixture(autouse=True)
def at_home(limit: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As ComfyUI runs nodes, on the micro models, with a runner that computes and one for dry runs."""
    for module in (diffusion, encoders, vae_nodes):
        monkeypatch.setattr(module, "model_path", lambda kind, name: str(MICRO / kind / name))
    with runners_of_plans(monkeypatch, limit), torch.inference_mode():
        yield


def workflow(draw: random.Random) -> dict[str, Any]:
    """Text to picture with every choice that changes what it takes."""

    def place() -> dict[str, Any]:
        weights = draw.choice(("auto", "device", "ram", "disk"))
        return {"device": draw.choice(("CPU", "Vulkan0")), "weights": weights, "engine": "ggml", "budget": 0}

    width, height = (draw.choice((32, 64, 96)) for _ in range(2))
    cfg = draw.choice((1.0, 3.0))
    return {
        "1": {"class_type": "GGMLDiffusionModel",
              "inputs": {"model_name": f"flux1-schnell-micro-{draw.choice(FLUX)}.gguf", **place()}},
        "2": {"class_type": "GGMLTextEncoders",
              "inputs": {"clip_name1": "t5-micro-encoder-Q8_0.gguf",
                         "clip_name2": "clip_l-micro_fp8_e4m3fn.safetensors", **place()}},
        "3": {"class_type": "GGMLVAE",
              "inputs": {"vae_name": "ae-micro.safetensors", "tiling": draw.choice(("auto", "off")),
                         "tile_size": draw.choice((0, 64)), "overlap": 16, **place()}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": "a red circle"}},
        "5": {"class_type": "EmptyLatentImage",
              "inputs": {"width": width, "height": height, "batch_size": draw.choice((1, 2))}},
        "6": {"class_type": "KSampler",
              "inputs": {"model": ["1", 0], "positive": ["4", 0], "negative": ["4", 0], "latent_image": ["5", 0],
                         "seed": 1, "steps": 2, "cfg": cfg, "sampler_name": "euler", "scheduler": "simple",
                         "denoise": 1.0}},
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["3", 0]}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "x"}},
    }  # fmt: skip


def run(prompt: dict[str, Any]) -> Iterator[None]:
    """The workflow's phases in ComfyUI's own nodes; yields after each."""
    inputs = {node: made["inputs"] for node, made in prompt.items()}
    (model,) = diffusion.GGMLDiffusionModel.execute(**inputs["1"]).result
    (clip,) = encoders.GGMLTextEncoders.execute(**inputs["2"]).result
    (vae,) = vae_nodes.GGMLVAE.execute(**inputs["3"]).result
    (conditioning,) = core.CLIPTextEncode().encode(clip, inputs["4"]["text"])
    yield
    size = inputs["5"]
    latent = {"samples": torch.zeros(size["batch_size"], 16, size["height"] // 8, size["width"] // 8)}
    cfg = inputs["6"]["cfg"]
    (latent,) = core.common_ksampler(model, 1, 2, cfg, "euler", "simple", conditioning, conditioning, latent)
    yield
    core.VAEDecode().decode(vae, latent)
    yield


def planned(prompt: dict[str, Any], gpu: int) -> Any:
    """The plan for a GPU of that many bytes and any amount of RAM."""
    return planner.make_plan(prompt, request.PlanRequest(gpu_budget=gpu, ram_budget=ENOUGH))


def held(phase: Any) -> list[Any]:
    """Memory held by each component of a phase at its end."""
    return [component.memory for component in phase.components]


def taken(model: Any) -> Any:
    """All that it takes; a mapped file counts as a buffer, but only where it is mapped."""
    return replace(model, buffers=0)


@pytest.mark.turns(3)
@pytest.mark.parametrize("seed", range(8))
def test_planned_is_what_is_taken(seed: int, limit: int) -> None:
    prompt = workflow(random.Random(seed))
    plan = planned(prompt, limit).plan
    assert plan.shortage is None, plan.shortage
    assert plan.notes == ()
    assert [phase.title for phase in plan.phases] == list(PHASES)
    runner = client.shared()
    assert not runner.memory().models
    most = dict.fromkeys(DEVICES, 0)
    for phase, _ in zip(plan.phases, run(prompt), strict=True):
        most = {name: max(most[name], phase.peak[name]) for name in DEVICES}
        memory = runner.memory()
        assert most == {device.name: device.peak for device in memory.devices}
        assert [taken(model) for model in held(phase)] == [taken(model) for model in memory.models]


@pytest.mark.turns(3)
@pytest.mark.parametrize("limit", [2 * MIB, 5 * MIB, 9 * MIB])
@pytest.mark.parametrize("seed", range(100, 103))
def test_what_is_accepted_runs_and_what_is_rejected_does_not(seed: int, limit: int) -> None:
    """On a GPU that is too small for some of it."""
    prompt = workflow(random.Random(seed))
    made = planned(prompt, limit)
    plan = made.plan
    if plan.shortage is None:
        assert sum(1 for _ in run(prompt)) == len(PHASES)
        return
    with pytest.raises(Exception, match="Vulkan0") as caught:
        for _ in run(prompt):
            pass
    assert plan.shortage.message in str(caught.value)
    assert all(each.peaks["Vulkan0"] <= limit for each in made.advice)


def test_what_models_hold_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """They make room, or are what the next prompt needs."""
    monkeypatch.setattr(request, "gpu_reserve", lambda: 0)
    prompt = workflow(random.Random(1))
    for node in ("1", "2", "3"):
        prompt[node]["inputs"] |= {"device": "Vulkan0", "weights": "device"}
    before = planner.make_plan(prompt, request.PlanRequest()).plan
    assert sum(1 for _ in run(prompt)) == len(PHASES)
    assert {device.name: device.held for device in client.shared().memory().devices}["Vulkan0"] > MIB
    after = planner.make_plan(prompt, request.PlanRequest()).plan
    assert before.capacity["Vulkan0"] == after.capacity["Vulkan0"] == 64 * MIB
    assert after.phases == before.phases


def test_accepted_and_rejected_are_both_met() -> None:
    """By the workflows above."""
    fits = set()
    for seed in range(100, 106):
        made = planned(workflow(random.Random(seed)), 5 * MIB)
        fits.add((made.plan.shortage is None, bool(made.advice)))
    assert {(True, False), (False, True)} <= fits


@pytest.mark.parametrize("limit", [5 * MIB])
def test_memory_that_runs_out_all_the_same_is_told_with_what_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something else took it after the plan was made. What is advised runs, in the same runner."""
    prompt = workflow(random.Random(100))
    for node in ("1", "2", "3"):
        prompt[node]["inputs"] |= {"device": "CPU", "weights": "ram"}
    prompt["1"]["inputs"] |= {"device": "Vulkan0", "weights": "device"}
    monkeypatch.setattr(measured, "_executing", lambda: prompt)
    monkeypatch.setattr(host.COMFYUI, "observer", measured.OBSERVER)
    with pytest.raises(Exception, match="Vulkan0") as caught:
        for _ in run(prompt):
            pass
    runner = client.shared().pid
    said = str(caught.value)
    assert "With what is free now: Sampling (node 6) does not fit" in said
    assert "It fits with GGML Diffusion Model (node 1): weights ram" in said
    prompt["1"]["inputs"]["weights"] = "ram"
    assert sum(1 for _ in run(prompt)) == len(PHASES)
    assert client.shared().pid == runner
