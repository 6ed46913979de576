"""Plans of checkpoints: SDXL at its real size for a card that is not there, and a small FLUX.1 part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import checkpoints, random_models
from tests.bench import real_size_files
from tests.comfy_server import changed, shipped
from tests.pack import part

planner, request = part("nodes.planner.planner"), part("nodes.planner.request")
client, memory = part("native.client.runner"), part("native.planning")
loader, build = part("nodes.loaders.checkpoint"), part("nodes.components.checkpoint_build")

RX_580 = "RX 580 8 GB, Linux"
MIB = 1 << 20
ON_AUTO = {"device": "auto", "clip_device": "auto", "vae_device": "auto"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SDXL without values: 6.5 GiB that take no room."""
    made: Path = tmp_path_factory.mktemp("hollow") / "sdxl.safetensors"
    kind = real_size_files.Kind.F16
    tensors = [(name, tuple(x.shape), kind) for name, x in checkpoints.sdxl_base().items()]
    real_size_files.write(made, real_size_files.ModelFile("", tensors), hollow=True)
    return made


@pytest.fixture(autouse=True)
def with_these_files(dry_runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "model_path", lambda _kind, name: name)
    monkeypatch.setattr(planner, "_runner", dry_runner)


@pytest.fixture
def micro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small FLUX.1 checkpoint; of its text encoders core knows one size only."""
    sizes = {"sizes": checkpoints.FLUX_SIZES}
    monkeypatch.setattr(loader, "checkpoint", lambda header, _sizes: build.checkpoint(header, **sizes))
    return str(random_models.write_safetensors(tmp_path / "flux.safetensors", checkpoints.flux()))


def planned(mode: str, file: str, gpu: int = 0, **inputs: Any) -> Any:
    """The template on an RX 580 with that file, MiB of the card and inputs of its loader."""
    prompt = changed(shipped("checkpoint_sdxl"), {"GGMLCheckpoint": {"engine": "ggml", "ckpt_name": file, **inputs}})
    if gpu:
        prompt = changed(prompt, {"EmptyLatentImage": {"width": 128, "height": 128}})
    return planner.make_plan(prompt, request.PlanRequest(mode, memory.known_profiles()[RX_580], gpu_budget=gpu * MIB))


def test_the_template_of_sdxl_fits_an_rx_580(file: Path) -> None:
    """The diffusion model has the GPU for itself."""
    made = planned("reject", str(file))
    assert made.plan.shortage is None, made.plan.shortage
    assert made.plan.notes == ()
    assert [phase.title for phase in made.plan.phases][-2:] == ["Sampling", "Decoding the picture"]
    assert 4900 * MIB < made.plan.peaks["Vulkan0"] < 7168 * MIB
    assert {component.loader for phase in made.plan.phases for component in phase.components} == {"1"}


def test_the_search_places_each_part(micro: str) -> None:
    """All on the GPU where they fit one after the other; those that are short of memory elsewhere, one by one."""
    roomy = planned("fit", micro, 64, **ON_AUTO)
    assert {roomy.change["1"][f"{part}device"] for part in loader.PARTS} == {"Vulkan0"}
    small = planned("fit", micro, 6, **ON_AUTO)
    assert small.plan.shortage is None
    assert {name: small.change["1"][f"{name}device"] for name in loader.PARTS} == {
        loader.MODEL: "CPU", loader.CLIP: "Vulkan0", loader.VAE: "CPU",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("which", "mib", "title", "advised"),
    [
        ("clip_", 3, "Encoding the prompt", "clip_device CPU"),
        ("vae_", 3, "Decoding the picture", "vae_device CPU"),
        ("", 13, "Sampling", ""),
    ],
)
def test_what_does_not_fit_is_refused_with_advice_for_the_part(
    micro: str, which: str, mib: int, title: str, advised: str
) -> None:
    made = planned("reject", micro, mib, **{"device": "CPU", f"{which}device": "Vulkan0", f"{which}weights": "device"})
    assert made.plan.shortage.title == title
    assert made.plan.shortage.prefix == which
    assert [each.words for each in made.advice] == ([f"GGML Checkpoint (node 1): {advised}"] if advised else [])
