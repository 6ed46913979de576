"""Templates with every model on Vulkan: what torch multiplies in ComfyUI's process all the same is known by name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import pytest

from tests.templates import inputs, packages, planning, report, running, small_prompts

DEVICE = "Vulkan0"
_SIZE = inputs.Size(small_prompts.SIDE, small_prompts.SIDE, 2)  # a frame takes software Vulkan seconds


@dataclass(frozen=True)
class Case:
    """models: of a template that this pack computes. torch: where torch multiplies all the same, and what."""

    models: Collection[str]
    torch: Mapping[str, str]


# A row of CLIP's states is taken where the last token is known, and projected there.
_POOLED = {"components/encoder.py forward": "the projection of CLIP's pooled state"}
_CLIP, _T5, _VAE = "CLIPTextModel (transformer)", "T5 (transformer)", "VAE (AutoencoderKL)"
_VISION = "CLIP vision model (CLIPVisionModelProjection)"
CASES: Mapping[str, Case] = {
    "sd3.5_large_blur": Case(
        (_CLIP, _CLIP, "ControlNet (ControlNetEmbedder)", "SD3 diffusion model", _T5, _VAE), _POOLED
    ),
    "utility-gan_upscaler": Case(("upscale model (RRDBNet)",), {}),
    "flux_redux_model_example": Case(
        (_VISION, _CLIP, "Flux diffusion model", _T5, _VAE),
        {**_POOLED, "flux/redux.py forward": "a style model, which stays core's"},
    ),
    "flux1_dev_uso_reference_image_gen": Case((_CLIP, "Flux diffusion model", _T5, _VAE), _POOLED),
    "sdxl_revision_text_prompts": Case((_VISION, _CLIP, _CLIP, "SDXL diffusion model", _VAE), _POOLED),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option, names = metafunc.config.getoption, list(CASES)
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", names if option("--all") else [names[option("--sample") % len(names)]])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[running.Runs]:
    with closing(running.Runs(tmp_path_factory.mktemp("templates"), DEVICE, counts=True, size=_SIZE)) as made:
        yield made


def test_torch_multiplies_what_is_named_alone(runs: running.Runs, name: str) -> None:
    (template,) = (each for each in packages.templates(packages.installed()) if each.name == name)
    result = planning.Result(name)
    runs.run(template, result)
    assert result.equal is not None, report.line(result)
    assert result.equal >= report.ALIKE, report.line(result)
    assert runs.placed == sorted((model, DEVICE) for model in CASES[name].models)
    assert runs.products["ours"].keys() == CASES[name].torch.keys()
    assert runs.products["core"].keys() - CASES[name].torch.keys()  # they are noticed where they are
