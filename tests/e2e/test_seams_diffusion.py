"""GGML Diffusion Model in core's samplers, beside core's own torch MODEL with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import random_models
from tests.core_models import core_model, core_vae, psnr
from tests.pack import part

diffusion = part("nodes.loaders.diffusion")
diffusion_module = part("nodes.components.diffusion")
weights = part("native.weights")

import comfy.controlnet  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.patcher_extension  # noqa: E402
from comfy_extras.nodes_custom_sampler import (  # noqa: E402
    BasicGuider,
    BasicScheduler,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)
from comfy_extras.nodes_flux import FluxGuidance  # noqa: E402
from comfy_extras.nodes_model_advanced import ModelSamplingFlux  # noqa: E402

import nodes as core_nodes  # noqa: E402

Models = tuple[Any, Any]  # ours, core's


def load(path: Path, **changes: Any) -> Models:
    tensors = random_models.flux(**changes)
    random_models.write_gguf(path / "flux.gguf", "flux", tensors)
    read = weights.read_header(path / "flux.gguf")
    return diffusion.load_diffusion(read, "CPU"), core_model(tensors)


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load(tmp_path_factory.mktemp("schnell"))


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return load(tmp_path_factory.mktemp("dev"), guidance_embed=True)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """As ComfyUI runs nodes."""
    with torch.inference_mode():
        yield


def conditioning(seed: int, tokens: int = 20, **values: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, random_models.CLIP_WIDTH, generator=generator)
    return [[torch.randn(1, tokens, random_models.T5_WIDTH, generator=generator), {"pooled_output": pooled, **values}]]


def empty(batch: int = 1, height: int = 16, width: int = 12) -> dict[str, Tensor]:
    return {"samples": torch.zeros(batch, 16, height, width)}


def sample(model: Any, latent: dict[str, Tensor], steps: int = 2, cfg: float = 1.0, **options: Any) -> Tensor:
    positive, negative = options.pop("positive", conditioning(1)), options.pop("negative", conditioning(2))
    (result,) = core_nodes.common_ksampler(
        model, 7, steps, cfg, "euler", "simple", positive, negative, latent, **options
    )
    return result["samples"]


def both(models: Models, *args: Any, **options: Any) -> float:
    ours, core = (sample(model, *args, **options) for model in models)
    return psnr(ours, core)


def test_picture_equals_cores(schnell: Models) -> None:
    vae = core_vae(random_models.vae())
    ours, core = (vae.decode(sample(model, empty(), steps=4)) for model in schnell)
    assert psnr(ours, core) >= 40


def test_batch_with_guidance_by_two_prompts(schnell: Models) -> None:
    assert both(schnell, empty(batch=3), cfg=2.5) >= 60


def test_prompts_of_different_length_and_odd_sizes(schnell: Models) -> None:
    options = {"positive": conditioning(1, tokens=9), "negative": conditioning(2, tokens=31)}
    assert both(schnell, empty(height=15, width=17), cfg=2.5, **options) >= 60


def test_image_to_image_within_a_mask(schnell: Models) -> None:
    mask = torch.zeros(1, 128, 96)
    mask[:, 32:96, 16:80] = 1.0
    latent = {"samples": torch.randn(1, 16, 16, 12), "noise_mask": mask}
    assert both(schnell, latent, steps=3, denoise=0.6) >= 60


def test_guidance_embedding_through_the_advanced_sampler(dev: Models) -> None:
    def run(model: Any, guidance: float) -> Tensor:
        (positive,) = FluxGuidance.execute(conditioning(1), guidance).result
        (guider,) = BasicGuider.execute(model, positive).result
        (noise,) = RandomNoise.execute(5).result
        (sampler,) = KSamplerSelect.execute("dpmpp_2m").result
        (sigmas,) = BasicScheduler.execute(model, "beta", 3, 1.0).result
        return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, empty()).result[0]["samples"]

    ours, core = dev
    low, high = run(ours, 1.5), run(ours, 8.0)
    assert psnr(low, run(core, 1.5)) >= 60
    assert psnr(high, run(core, 8.0)) >= 60
    assert psnr(low, high) < 40


def test_fill_model_takes_picture_and_mask_beside_the_noise(tmp_path: Path) -> None:
    models = load(tmp_path, in_channels=96, guidance_embed=True)
    vae = core_vae(random_models.vae())
    mask = torch.zeros(1, 128, 96)
    mask[:, 40:90, 20:70] = 1.0
    positive, negative, latent = core_nodes.InpaintModelConditioning().encode(
        conditioning(1), conditioning(2), torch.rand(1, 128, 96, 3), vae, mask
    )
    assert both(models, latent, positive=positive, negative=negative) >= 60


def test_reference_pictures(dev: Models) -> None:
    references = [torch.randn(1, 16, 8, 8), torch.randn(1, 16, 6, 10)]
    for method in ("offset", "index", "uxo"):
        positive = conditioning(1, reference_latents=references, reference_latents_method=method)
        assert both(dev, empty(), positive=positive) >= 60


def test_attention_mask_of_a_redux_prompt(dev: Models) -> None:
    tokens = 20
    mask = torch.zeros(1, tokens + 16 * 12 // 4, tokens + 16 * 12 // 4)
    mask[:, :, 10:tokens] = -2.0
    positive = conditioning(1, tokens, attention_mask=mask, attention_mask_img_shape=(8, 6))
    assert both(dev, empty(), positive=positive) >= 60


class Control(comfy.controlnet.ControlBase):
    """Fixed tensors after the first blocks, as a FLUX.1 ControlNet gives them."""

    def get_control(self, x: Tensor, *_: Any) -> Any:
        tokens, width = x.shape[2] * x.shape[3] // 4, random_models.FLUX["hidden_size"]
        generator = torch.Generator().manual_seed(3)
        first, second = torch.randn(2, x.shape[0], tokens, width, generator=generator)
        return {"input": [first, first], "middle": [], "output": [None, second]}

    def copy(self) -> Control:
        return self

    def get_models(self) -> list[Any]:
        return []


def test_controlnet_tensors(schnell: Models) -> None:
    control = Control()
    options = {"positive": conditioning(1, control=control, control_apply_to_uncond=True)}
    assert both(schnell, empty(), **options) >= 60
    ours = schnell[0]
    assert psnr(sample(ours, empty()), sample(ours, empty(), **options)) < 40


def test_rope_options(schnell: Models) -> None:
    moved = [model.clone() for model in schnell]
    for model in moved:
        model.set_model_rope_options(2.0, 1.0, 0.5, 0.0, 1.0, 0.0)
    ours, core = (sample(model, empty()) for model in moved)
    assert psnr(ours, core) >= 60
    assert psnr(ours, sample(schnell[0], empty())) < 50


def test_other_sampling_shift(schnell: Models, dev: Models) -> None:
    for models in (schnell, dev):
        shifted = [ModelSamplingFlux().patch(model, 3.0, 2.0, 1024, 768)[0] for model in models]
        ours, core = (sample(model, empty(), steps=3) for model in shifted)
        assert psnr(ours, core) >= 60
        assert psnr(ours, sample(models[0], empty(), steps=3)) < 50


def test_wrappers_of_other_nodes_run_inside_the_model(schnell: Models) -> None:
    calls = []

    def wrapper(executor: Any, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(executor.class_obj)
        return executor(x * 0.5, timestep, *args, **kwargs) * 2.0

    wrapped = [model.clone() for model in schnell]
    for model in wrapped:
        model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", wrapper)
    assert both((wrapped[0], wrapped[1]), empty()) >= 60
    assert calls[0] is schnell[0].model.diffusion_model


def test_previews_see_every_step(schnell: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    import latent_preview

    seen = []
    monkeypatch.setattr(
        latent_preview, "prepare_callback", lambda *_: lambda step, x0, x, total: seen.append((step, total, x0.shape))
    )
    sample(schnell[0], empty(), steps=3)
    assert seen == [(step, 3, (1, 16, 16, 12)) for step in range(3)]


def test_interrupt_between_steps(schnell: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    import latent_preview

    steps = []

    def interrupt(step: int, *_: Any) -> None:
        steps.append(step)
        comfy.model_management.interrupt_current_processing(True)

    monkeypatch.setattr(latent_preview, "prepare_callback", lambda *_: interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(schnell[0], empty(), steps=4)
    assert steps == [0]
    monkeypatch.undo()
    assert torch.isfinite(sample(schnell[0], empty())).all()


def test_interrupt_in_the_middle_of_a_step(schnell: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner asks while it computes; core's flag is down again after it was honoured."""
    large = empty(height=96, width=96)
    sample(schnell[0], large, steps=1)  # traced: what follows waits for the runner alone
    asked = comfy.model_management.processing_interrupted

    def interrupted() -> bool:
        comfy.model_management.interrupt_current_processing(True)
        return asked()

    monkeypatch.setattr(comfy.model_management, "processing_interrupted", interrupted)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(schnell[0], large, steps=1)
    assert not asked()


def test_same_seed_same_bits(schnell: Models) -> None:
    assert torch.equal(sample(schnell[0], empty()), sample(schnell[0], empty()))


def test_unloading_frees_the_runner_and_sampling_loads_again(schnell: Models) -> None:
    ours = schnell[0]
    first = sample(ours, empty())
    remote = ours.model.diffusion_model.engine_model
    assert remote.weights.digest in {model.digest for model in remote.runner.memory().models}
    comfy.model_management.unload_all_models()
    assert remote.weights.digest not in {model.digest for model in remote.runner.memory().models}
    assert ours.loaded_size() == 0
    assert torch.equal(sample(ours, empty()), first)
    assert ours.loaded_size() == ours.model_size()


def test_model_that_is_dropped_leaves_the_runner(tmp_path: Path, schnell: Models) -> None:
    dropped, _ = load(tmp_path, depth=1)
    sample(dropped, empty())
    remote = dropped.model.diffusion_model.engine_model
    digest, runner = remote.weights.digest, remote.runner
    comfy.model_management.current_loaded_models.clear()
    del dropped, remote
    sample(schnell[0], empty())
    assert digest not in {model.digest for model in runner.memory().models}


def test_out_of_memory_is_cores_out_of_memory(schnell: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    client = part("native.client")
    module = schnell[0].model.diffusion_model

    def full(*_: Any, **__: Any) -> Any:
        raise client.OutOfMemory("CPU", "the compute buffer", 9 << 20, 1 << 20)

    monkeypatch.setattr(module.engine_model, "run", full)
    with pytest.raises(comfy.model_management.OOM_EXCEPTION, match="needs 9.0 MiB") as error:
        sample(schnell[0], empty())
    assert comfy.model_management.is_oom(error.value)


def test_merging_and_saving_are_refused_in_clear_words(schnell: Models) -> None:
    with pytest.raises(NotImplementedError, match="cannot be merged"):
        schnell[0].get_key_patches("diffusion_model.")
    with pytest.raises(NotImplementedError, match="cannot be saved"):
        schnell[0].state_dict_for_saving()
