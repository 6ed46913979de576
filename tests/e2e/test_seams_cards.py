"""Workflows with FLUX.1 at its real size, planned for cards that are not there: nothing is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import real_size_files
from tests.pack import part

planner, request, walk = part("nodes.planner.planner"), part("nodes.planner.request"), part("nodes.planner.walk")
advice = part("nodes.planner.advice")
client, memory = part("native.client.runner"), part("native.planning")
diffusion, encoders, vae_nodes = (
    part("nodes.loaders.diffusion"),
    part("nodes.loaders.text_encoders"),
    part("nodes.loaders.vae"),
)

RX_580 = ("RX 580 8 GB, Linux", "RX 580 8 GB, Windows")
FLUX_Q4, FLUX_Q8 = "flux1-schnell-random-Q4_K.gguf", "flux1-schnell-random-Q8_0.gguf"
T5_Q8, T5_F16 = "t5-v1_1-xxl-encoder-random-Q8_0.gguf", "t5-v1_1-xxl-encoder-random-F16.safetensors"
CLIP, VAE = "clip_l-random-F16.safetensors", "ae-random-F32.safetensors"
MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("hollow")
    for name in (FLUX_Q4, FLUX_Q8, T5_Q8, T5_F16, CLIP, VAE):
        real_size_files.write(made / name, real_size_files.FILES[name](), hollow=True)
    return made


@pytest.fixture(autouse=True)
def with_these_files(folder: Path, dry_runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (diffusion, encoders, vae_nodes, advice):
        monkeypatch.setattr(module, "model_path", lambda kind, name: str(folder / name))
    monkeypatch.setattr(advice, "model_names", lambda kind: [FLUX_Q4, FLUX_Q8])
    monkeypatch.setattr(planner, "_runner", dry_runner)
    monkeypatch.setattr(planner, "SECONDS", 200.0)  # a busy machine gives the same advice


def workflow(model: str = FLUX_Q4, t5: str = T5_Q8, side: int = 1024, **inputs: dict[str, Any]) -> dict[str, Any]:
    """Text to picture as DESIGN's promise has it; inputs by class."""
    graph: dict[str, Any] = {
        "1": {"class_type": "GGMLDiffusionModel", "inputs": {"model_name": model, "device": "auto"}},
        "2": {"class_type": "GGMLTextEncoders", "inputs": {"clip_name1": t5, "clip_name2": CLIP, "device": "CPU"}},
        "3": {"class_type": "GGMLVAE",
              "inputs": {"vae_name": VAE, "device": "CPU", "tiling": "auto", "tile_size": 0, "overlap": 64}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["2", 0], "text": "a red circle"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": side, "height": side, "batch_size": 1}},
        "6": {"class_type": "KSampler",
              "inputs": {"model": ["1", 0], "positive": ["4", 0], "negative": ["4", 0], "latent_image": ["5", 0],
                         "seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
                         "denoise": 1.0}},
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["3", 0]}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "x"}},
    }  # fmt: skip
    for node in graph.values():
        node["inputs"] |= inputs.get(node["class_type"], {})
    return graph


def planned(prompt: dict[str, Any], card: str = RX_580[0], mode: str = "reject") -> Any:
    return planner.make_plan(prompt, request.PlanRequest(mode, memory.known_profiles()[card]))


def words(made: Any) -> str:
    return "\n".join(each.words for each in made.advice)


@pytest.mark.parametrize("card", RX_580)
def test_what_the_project_promises_fits_an_rx_580(card: str) -> None:
    """FLUX.1 Q4_K at 1024x1024, encoders and VAE on the CPU."""
    made = planned(workflow(), card)
    assert made.plan.shortage is None, made.plan.shortage
    assert made.plan.notes == ()
    assert 6.7e9 < made.plan.peaks["Vulkan0"] < 7.2e9
    assert made.plan.peaks["CPU"] < 3e9


T5_ON_THE_GPU = workflow(t5=T5_F16, GGMLTextEncoders={"device": "Vulkan0", "weights": "device"})
RESIDENT = workflow(model=FLUX_Q8, GGMLDiffusionModel={"weights": "device"})


@pytest.mark.parametrize(
    ("prompt", "phase", "advised"),
    [
        (T5_ON_THE_GPU, "Encoding the prompt", "GGML Text Encoders (node 2): device CPU"),
        (RESIDENT, "Sampling", "GGML Diffusion Model (node 1): weights ram"),
        (RESIDENT, "Sampling", f"GGML Diffusion Model (node 1): the file {FLUX_Q4}"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_rejected_with_the_right_advice(prompt: dict, phase: str, advised: str) -> None:
    made = planned(prompt)
    assert made.plan.shortage.title == phase
    assert made.plan.shortage.device == "Vulkan0"
    assert made.plan.shortage.over > 1000 * MIB
    assert advised in words(made)


def test_every_advice_is_true() -> None:
    for prompt in (T5_ON_THE_GPU, RESIDENT):
        for each in planned(prompt).advice:
            plan = planned(walk.changed(prompt, each.change)).plan
            assert plan.shortage is None
            assert plan.peaks == each.peaks


@pytest.mark.parametrize(
    ("prompt", "chosen"),
    [
        (workflow(t5=T5_F16, GGMLTextEncoders={"device": "auto"}), {"1", "2"}),
        (workflow(model=FLUX_Q8), {"1"}),
        (workflow(model=FLUX_Q8, t5=T5_F16, GGMLTextEncoders={"device": "auto"}, GGMLVAE={"device": "auto"}),
         {"1", "2", "3"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("card", [*RX_580, "RX 570 4 GB, Linux", "Iris Xe, 16 GB of RAM, Windows"])
def test_fit_makes_them_run(prompt: dict, chosen: set[str], card: str) -> None:
    made = planned(prompt, card, "fit")
    assert made.plan.shortage is None, made.plan.shortage
    assert chosen <= {*made.change, "2"}
    for node, inputs in made.change.items():
        assert prompt[node]["inputs"].get("device") == "auto" or "device" not in inputs
    again = planned(prompt, card, "fit")
    assert (again.change, again.plan.peaks) == (made.change, made.plan.peaks)
    settled = planned(walk.changed(prompt, made.change), card)
    assert settled.plan.peaks == made.plan.peaks


def test_fit_keeps_what_is_set() -> None:
    resident = workflow(model=FLUX_Q8, GGMLDiffusionModel={"device": "Vulkan0", "weights": "device"})
    made = planned(resident, mode="fit")
    assert made.plan.shortage is not None
    assert made.change == {}


@pytest.mark.turns(3)
@pytest.mark.parametrize("card", list(memory.known_profiles()))
def test_every_profile_is_planned_for(card: str) -> None:
    made = planned(workflow(), card, "fit")
    assert made.plan.shortage is None, made.plan.shortage
    assert set(made.plan.peaks) == {"Vulkan0", "CPU"}
