"""GGML Diffusion Model and GGML VAE with the engine torch: what works through the runner works here, beside core's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import random_models
from tests.core_models import core_model, core_vae, psnr
from tests.pack import part

diffusion = part("nodes.loaders.diffusion")
placement = part("native.placement")
torch_engine = part("native.engines.torch_cpu")
vae_nodes = part("nodes.loaders.vae")
weights = part("native.weights")

import comfy.hooks  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.sd  # noqa: E402

import nodes as core_nodes  # noqa: E402

from .test_seams_diffusion import Control, both, conditioning, empty, sample  # noqa: E402
from .test_seams_lora import kohya  # noqa: E402

PLACED = placement.Placement("CPU", engine="torch")
Models = tuple[Any, Any]  # ours, core's


def load(folder: Path, matrices: Any) -> Models:
    tensors = random_models.flux()
    path = random_models.write_gguf(folder / "flux.gguf", "flux", tensors, matrices)
    return diffusion.load_diffusion(weights.read_header(path), PLACED), core_model(tensors)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """With F32 weights, which are computed in F32."""
    return load(tmp_path_factory.mktemp("flux"), np.float32)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_torch_computes(models: Models) -> None:
    assert isinstance(models[0].model.diffusion_model.engine_model, torch_engine.TorchModel)


def test_batch_with_guidance_by_two_prompts_of_different_length(models: Models) -> None:
    options = {"positive": conditioning(1, tokens=9), "negative": conditioning(2, tokens=31)}
    assert both(models, empty(batch=2, height=15, width=17), cfg=2.5, **options) >= 80


def test_f16_weights(tmp_path: Path) -> None:
    """Multiplied in BF16 where that is fast."""
    assert both(load(tmp_path, np.float16), empty(), steps=4) >= 40


def test_controlnet_tensors(models: Models) -> None:
    positive = conditioning(1, control=Control(), control_apply_to_uncond=True)
    assert both(models, empty(), positive=positive) >= 80
    assert psnr(sample(models[0], empty()), sample(models[0], empty(), positive=positive)) < 40


def test_lora_of_the_model_and_of_one_prompt(models: Models) -> None:
    plain = sample(models[0], empty())
    patched = [comfy.sd.load_lora_for_models(model, None, kohya(), 0.8, 0.0)[0] for model in models]
    assert both((patched[0], patched[1]), empty()) >= 80
    hooks = comfy.hooks.create_hook_lora(kohya(), strength_model=0.9, strength_clip=0.0)
    found, expected = (sample(model, empty(), positive=conditioning(1, hooks=hooks.clone())) for model in models)
    assert psnr(found, expected) >= 80
    assert psnr(found, plain) < 40
    assert torch.equal(sample(models[0], empty()), plain)


def test_interrupt_in_the_middle_of_a_step(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between layers; core's flag is down again after it was honoured."""
    remote, entered = models[0].model.diffusion_model.engine_model, []
    run = remote.run

    def interrupted(*args: Any, interrupted: Any, **options: Any) -> Any:
        def ask() -> bool:
            entered.append(1)
            comfy.model_management.interrupt_current_processing(len(entered) == 5)
            return interrupted()

        return run(*args, interrupted=ask, **options)

    monkeypatch.setattr(remote, "run", interrupted)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(models[0], empty())
    assert len(entered) == 5
    assert not comfy.model_management.processing_interrupted()
    monkeypatch.undo()
    assert torch.isfinite(sample(models[0], empty())).all()


def test_unloading_gives_back_what_is_held(models: Models) -> None:
    remote = models[0].model.diffusion_model.engine_model
    first = sample(models[0], empty())
    assert remote.nbytes > 0
    comfy.model_management.unload_all_models()
    assert remote.nbytes == 0
    assert torch.equal(sample(models[0], empty()), first)


def test_vae_whole_and_in_tiles(tmp_path: Path) -> None:
    tensors = random_models.vae()
    path = random_models.write_safetensors(tmp_path / "vae.safetensors", tensors, torch.float32)
    tiles = vae_nodes.TileChoice("auto", 128, 32)
    vae = vae_nodes.vae_of(weights.read_header(path), PLACED, tiles)
    core = core_vae(tensors)
    latents, pixels = torch.randn(2, 16, 12, 10), torch.rand(2, 99, 104, 3)
    assert psnr(vae.decode(latents), core.decode(latents)) >= 80
    assert psnr(vae.encode(pixels), core.encode(pixels)) >= 80
    found = core_nodes.VAEDecode().decode(vae, {"samples": torch.randn(1, 16, 40, 24)})[0]
    assert found.shape == (1, 320, 192, 3)


def test_memory_that_is_not_there_is_cores_out_of_memory(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the allocator of torch says it, which makes core cut pictures into tiles."""
    core = models[0].model.diffusion_model.engine_model.module

    def greedy(*_: Any, **__: Any) -> Tensor:
        return torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(core, "_forward", greedy)
    with pytest.raises(comfy.model_management.OOM_EXCEPTION, match=r"no 1,099,511,627,776\.0 MiB left") as error:
        sample(models[0], empty())
    assert comfy.model_management.is_oom(error.value)
