"""Infinity and NaN in a result: what they came in with is named, the model's file where nothing else had any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import random_models
from tests.pack import part

diffusion = part("nodes.loaders.diffusion")
errors = part("native.errors")
not_finite = part("nodes.components.not_finite")
placement = part("native.placement")
vae_nodes = part("nodes.loaders.vae")
weights = part("native.weights")

import comfy.sd  # noqa: E402

from .test_seams_diffusion import Control, conditioning, empty, sample  # noqa: E402
from .test_seams_lora import kohya  # noqa: E402

ENGINES = ("ggml", "torch")
BAD = (float("nan"), float("inf"), float("-inf"))


@pytest.fixture(scope="module", params=ENGINES)
def placed(request: pytest.FixtureRequest) -> Any:
    return placement.Placement("CPU", engine=request.param)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flux")
    return random_models.write_gguf(folder / "flux.gguf", "flux", random_models.flux())


@pytest.fixture(scope="module")
def model(path: Path, placed: Any) -> Any:
    return diffusion.load_diffusion(weights.read_header(path), placed)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def blamed(function: Callable[[], Any]) -> str:
    with pytest.raises(errors.NotFinite) as caught:
        function()
    return str(caught.value)


@pytest.mark.parametrize("bad", BAD)
def test_a_latent(model: Any, bad: float) -> None:
    latent = empty()
    latent["samples"][0, 3, 5, 7] = bad
    said = blamed(lambda: sample(model, latent, steps=1, denoise=0.5))
    assert said.startswith("The latent went into ")
    assert "1 of 3,072" in said
    assert "Neither the model's file nor the device is the cause" in said


@pytest.mark.parametrize("bad", BAD)
def test_a_conditioning(model: Any, bad: float) -> None:
    context, options = conditioning(1)[0]
    context[0, 2, 3] = bad
    assert blamed(lambda: sample(model, empty(), steps=1, positive=[[context, options]])).startswith("The conditioning")
    context, options = conditioning(1)[0]
    options["pooled_output"][0, 3] = bad
    assert blamed(lambda: sample(model, empty(), steps=1, positive=[[context, options]])).startswith("The conditioning")


def test_a_controlnet(model: Any) -> None:
    class Broken(Control):
        def get_control(self, *args: Any) -> Any:
            found = super().get_control(*args)
            return {name: [x and x * float("nan") if not isinstance(x, Tensor) else x * float("nan") for x in each]
                    for name, each in found.items()}  # fmt: skip

    positive = conditioning(1, control=Broken(), control_apply_to_uncond=True)
    said = blamed(lambda: sample(model, empty(), steps=1, positive=positive))
    assert said.startswith("The output of a ControlNet went into")


@pytest.mark.parametrize("strength", [0.8, 1e30])
def test_a_lora(model: Any, strength: float) -> None:
    patches = kohya()
    if strength < 1:
        next(x for name, x in patches.items() if "lora_up" in name)[1, 0] = float("nan")
    else:
        patches = {name: x * 1e30 if "lora_up" in name else x for name, x in patches.items()}
    patched = comfy.sd.load_lora_for_models(model, None, patches, strength, 0.0)[0]
    said = blamed(lambda: sample(patched, empty(), steps=1))
    assert said.startswith("A LoRA on ")
    assert "remove the LoRA loaders one by one" in said
    assert sample(model, empty(), steps=1).isfinite().all()


def test_the_latent_of_a_vae(tmp_path: Path, placed: Any) -> None:
    file = random_models.write_gguf(tmp_path / "vae.gguf", "vae", random_models.vae())
    vae = vae_nodes.vae_of(weights.read_header(file), placed, vae_nodes.TileChoice("auto", 512, 64))
    assert blamed(lambda: vae.decode(torch.full((1, 16, 4, 4), torch.nan))).startswith("The latent, picture or sound")
    assert blamed(lambda: vae.encode(torch.full((1, 32, 32, 3), torch.nan))).startswith("The latent, picture or sound")


def test_a_damaged_file_is_still_blamed(tmp_path: Path, placed: Any) -> None:
    tensors = random_models.flux()
    tensors["final_layer.linear.bias"] = torch.full_like(tensors["final_layer.linear.bias"], torch.nan)
    file = random_models.write_gguf(tmp_path / "broken.gguf", "flux", tensors)
    broken = diffusion.load_diffusion(weights.read_header(file), placed)
    said = blamed(lambda: sample(broken, empty(), steps=1))
    assert f"Perhaps {file} is damaged" in said


def test_the_negative_infinities_of_a_mask_are_none() -> None:
    mask = torch.tensor([0.0, -torch.inf])
    error, whole = errors.NotFinite("the file"), weights.WeightSet("m", {}, (), {})
    assert not_finite.explained(error, whole, {"attention_mask": mask, "ids": torch.tensor([1])}, {}) is error
    assert not_finite.explained(error, whole, {"x": mask}, {}) is not error
    assert not_finite.explained(error, whole, {"attention_mask": -mask}, {}) is not error
