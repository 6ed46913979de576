"""Seconds in plans: they follow what a workflow asks for, and `fit` chooses the quicker of what fits."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from tqdm.auto import tqdm

from tests.comfy_server import MICRO_MODELS, changed, node_id, workflow
from tests.pack import part

planner, request = part("nodes.planner.planner"), part("nodes.planner.request")
client, planning = part("native.client.runner"), part("native.planning")
rates, messages = part("native.planning.rates"), part("native.wire.messages")
loaders = [part(f"nodes.loaders.{name}") for name in ("diffusion", "text_encoders", "vae")]
sampler_steps = part("nodes.planner.sampler_steps")

MIB = 1 << 20
CARD = messages.Device("Vulkan0", "a card", "GPU", 4096 * MIB, 4096 * MIB, 1 << 30, ())
PROCESSOR = messages.Device("CPU", "CPU", "CPU", 8192 * MIB, 8192 * MIB, 1 << 33, ())
ROOM = {"Vulkan0": 4096 * MIB, "CPU": 8192 * MIB}
QUICK, SLOW = rates.published_rates(1e12, 1e11), rates.published_rates(1e10, 1e9)
LATENT = "EmptyLatentImage"
CLASSES = ("GGMLDiffusionModel", "GGMLTextEncoders", "GGMLVAE")


@pytest.fixture(autouse=True)
def with_micro_models(dry_runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in loaders:
        monkeypatch.setattr(module, "model_path", lambda kind, name: str(MICRO_MODELS / kind / name))
    monkeypatch.setattr(planner, "_runner", dry_runner)


def graph(device: str = "CPU", **inputs: dict[str, Any]) -> dict[str, Any]:
    placed = {loader: {"device": device, "engine": "ggml"} for loader in CLASSES}
    made = changed(workflow("text_to_image"), placed)
    made[node_id(made, "EmptySD3LatentImage")]["class_type"] = LATENT  # core's nodes beside its own are not loaded here
    return changed(changed(made, {LATENT: {"width": 64, "height": 64}}), inputs)


def planned(prompt: dict[str, Any], card: Any = QUICK, processor: Any = QUICK, mode: str = "reject") -> Any:
    foreign = tuple(messages.DeviceInfo(each.name, each.type, each.description) for each in (CARD, PROCESSOR))
    known = {name: found for name, found in (("Vulkan0", card), ("CPU", processor)) if found}
    machine = planning.Machine((CARD, PROCESSOR), ROOM, foreign, "a machine", known)
    return planner.make_plan(prompt, request.PlanRequest(mode), machine=machine)


def phases(prompt: dict[str, Any], **more: Any) -> dict[str, float]:
    return {phase.title: phase.seconds for phase in planned(prompt, **more).plan.phases}


def test_more_steps_take_as_much_longer() -> None:
    four, eight = (phases(graph(KSampler={"steps": steps, "sampler_name": "euler"})) for steps in (4, 8))
    heun = phases(graph(KSampler={"steps": 4, "sampler_name": "heun"}))
    assert eight["Sampling"] == pytest.approx(2 * four["Sampling"], rel=0.02)
    assert heun["Sampling"] == pytest.approx(7 / 4 * four["Sampling"], rel=0.02)
    assert eight["Decoding the picture"] == four["Decoding the picture"]


def test_two_conditionings_take_twice_as_long() -> None:
    alone, both = (phases(graph(KSampler={"steps": 4, "cfg": cfg})) for cfg in (1.0, 5.0))
    assert both["Sampling"] == pytest.approx(2 * alone["Sampling"], rel=0.02)


def test_a_slower_processor_takes_longer_and_an_unknown_one_is_not_guessed() -> None:
    quick, slow, unknown = (planned(graph(), processor=each).plan for each in (QUICK, SLOW, None))
    assert slow.seconds > 20 * quick.seconds
    assert quick.seconds == pytest.approx(sum(phase.seconds for phase in quick.phases))
    assert unknown.seconds is None


def test_tiles_and_pictures_count() -> None:
    tiled = {"tiling": "on", "tile_size": 128, "overlap": 16}
    small, large = (
        phases(graph(GGMLVAE=tiled, EmptyLatentImage={"width": side, "height": side}))["Decoding the picture"]
        for side in (128, 352)
    )
    assert large == pytest.approx(9 * small, rel=0.1)
    one, three = (phases(graph(EmptyLatentImage={"batch_size": count}))["Decoding the picture"] for count in (1, 3))
    assert three == pytest.approx(3 * one, rel=0.1)


@pytest.mark.parametrize(("card", "chosen"), [(QUICK, "Vulkan0"), (SLOW, "CPU"), (None, "Vulkan0")])
def test_fit_chooses_the_quicker_of_what_fits(card: Any, chosen: str) -> None:
    """Both fit. Of a card that nobody measured it is taken that it is the quicker one."""
    made = planned(graph("auto"), card, QUICK, "fit")
    assert made.plan.shortage is None
    assert made.change[node_id(graph(), "GGMLDiffusionModel")]["device"] == chosen


def test_a_measurement_makes_a_new_plan() -> None:
    assert planned(graph(), processor=QUICK).plan.seconds != planned(graph(), processor=SLOW).plan.seconds
    dated = replace(SLOW, date="later")
    assert planned(graph(), processor=dated).plan.seconds == planned(graph(), processor=SLOW).plan.seconds


def test_counting_a_samplers_calls_draws_nothing_from_torch() -> None:
    before = torch.get_rng_state()
    for sampler in ("heunpp2", "ddim", "dpmpp_sde", "uni_pc"):
        phases(graph(KSampler={"steps": 3, "sampler_name": sampler}))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_progress_bar_of_another_thread_holds_no_plan_up() -> None:
    """tqdm keeps its lock where it cannot write, as on a full disk; ComfyUI's own thread has it from then on."""
    counted: list[float] = []

    def count() -> None:
        samplers = ("euler", "dpmpp_2m_sde_heun_gpu", "uni_pc", "dpm_fast", "dpm_adaptive")
        counted.extend(phases(graph(KSampler={"steps": 3, "sampler_name": each}))["Sampling"] for each in samplers)

    thread = threading.Thread(target=count, daemon=True)
    with tqdm.get_lock():
        thread.start()
        thread.join(60)
    assert len(counted) == 5
