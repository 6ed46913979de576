"""The template of SDXL at its real size, planned for cards that are not there: nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import checkpoints
from tests.bench import real_size_files
from tests.comfy_server import changed, shipped
from tests.pack import part
from tests.runner_toys import new_runner

planner, request = part("nodes.planner.planner"), part("nodes.planner.request")
client, memory = part("native.client.runner"), part("native.planning")
loader = part("nodes.loaders.checkpoint")

RX_580 = "RX 580 8 GB, Linux"
MIB = 1 << 20
ON_AUTO = {"device": "auto", "clip_device": "auto", "vae_device": "auto"}
ON_GPU = {"device": "Vulkan0", "clip_device": "Vulkan0", "vae_device": "Vulkan0"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL without values: 6.5 GiB that take no room."""
    made: Path = tmp_path_factory.mktemp("hollow") / "sdxl.safetensors"
    kind = real_size_files.Kind.F16
    tensors = [(name, tuple(x.shape), kind) for name, x in checkpoints.sdxl_base().items()]
    real_size_files.write(made, real_size_files.ModelFile("", tensors), hollow=True)
    return made


@pytest.fixture(scope="module")
def dry_runner() -> Iterator[Any]:
    toy = new_runner()
    runner = client.Runner(toy._options, toy._environment)
    yield runner
    runner.close()


@pytest.fixture(autouse=True)
def with_this_file(file: Path, dry_runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "model_path", lambda _kind, _name: str(file))
    monkeypatch.setattr(planner, "_runner", dry_runner)


def planned(mode: str, card: str = RX_580, **inputs: Any) -> Any:
    """The template, with inputs of its loader; torch would take the place of ggml on some processors."""
    prompt = changed(shipped("checkpoint_sdxl"), {"GGMLCheckpoint": {"engine": "ggml", **inputs}})
    return planner.make_plan(prompt, request.PlanRequest(mode, memory.known_profiles()[card]))


def test_the_template_fits_an_rx_580() -> None:
    """The diffusion model has the GPU for itself."""
    made = planned("reject")
    assert made.plan.shortage is None, made.plan.shortage
    assert made.plan.notes == ()
    assert [phase.title for phase in made.plan.phases][-2:] == ["Sampling", "Decoding the picture"]
    assert 4900 * MIB < made.plan.peaks["Vulkan0"] < 7168 * MIB
    assert {component.loader for phase in made.plan.phases for component in phase.components} == {"1"}


def test_the_search_places_each_part() -> None:
    """All on the GPU where they fit one after the other; on a small card the diffusion model is streamed."""
    made = planned("fit", **ON_AUTO)
    assert made.plan.shortage is None
    change = made.change["1"]
    assert {change[f"{part}device"] for part in loader.PARTS} == {"Vulkan0"}
    small = planned("fit", "RX 570 4 GB, Linux", **ON_AUTO)
    assert small.plan.shortage is None
    assert small.change["1"]["device"] == "Vulkan0"
    assert small.change["1"]["weights"] == "ram"


def test_what_does_not_fit_is_refused_with_advice_for_the_part() -> None:
    made = planned("reject", "RX 570 4 GB, Linux", **ON_GPU, weights="device")
    assert made.plan.shortage.title == "Sampling"
    assert made.plan.shortage.prefix == loader.MODEL
    assert any("GGML Checkpoint (node 1): weights ram" in each.words for each in made.advice)
