"""Where weights live: the same picture bit for bit, phases that share a device, and what a second prompt reloads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import random_models
from tests.pack import part
from tests.runner_toys import new_runner

diffusion = part("nodes.loaders.diffusion")
encoders = part("nodes.loaders.text_encoders")
vae_nodes = part("nodes.loaders.vae")
client = part("native.client.runner")

import nodes as core_nodes  # noqa: E402

MICRO = Path(__file__).parents[1] / "micro" / "models"
ENCODERS = ("t5.gguf", "clip_l.safetensors")  # larger than the micro ones, whose matrices are too small to stream
MIB = 1 << 20
PROMPT = "a red circle on a blue background"
# A step of the micro model is cut into about 30 segments, as one at real size is.
SEGMENTS = ("--largest-segment", "4e7")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text encoders with matrices of 128 KiB and more."""
    path = tmp_path_factory.mktemp("encoders")
    random_models.write_gguf(path / ENCODERS[0], "t5", random_models.t5(d_model=256, d_ff=512, d_kv=64))
    clip = random_models.clip_l(hidden_size=256, intermediate_size=1024)
    random_models.write_safetensors(path / ENCODERS[1], clip)
    return path


@pytest.fixture(autouse=True)
def inference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As ComfyUI runs nodes, on the micro models but for the encoders."""
    for module in (diffusion, vae_nodes):
        monkeypatch.setattr(module, "model_path", lambda kind, name: str(MICRO / kind / name))
    monkeypatch.setattr(encoders, "model_path", lambda _kind, name: str(folder / name))
    with torch.inference_mode():
        yield


@pytest.fixture
def runner_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes the runner that nodes use one with these options."""
    started = []

    def start(*options: str) -> Any:
        toy = new_runner(*SEGMENTS, *options)
        started.append(client.Runner(toy._options, toy._environment))
        monkeypatch.setattr(client, "_shared", started[-1])
        return started[-1]

    yield start
    for runner in started:
        runner.close()


def load_all(device: str, weights: str, flux: str = "F16", budget: int = 0) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE with all their weights in one kind of place."""
    chosen = {"weights": weights, "budget": budget}
    (model,) = diffusion.GGMLDiffusionModel.execute(f"flux1-schnell-micro-{flux}.gguf", device, **chosen).result
    (clip,) = encoders.GGMLTextEncoders.execute(ENCODERS[0], device, ENCODERS[1], **chosen).result
    (vae,) = vae_nodes.GGMLVAE.execute("ae-micro.safetensors", device, "off", 512, 64, **chosen).result
    return model, clip, vae


def encode(clip: Any, text: str) -> tuple[Tensor, Tensor]:
    ((embedded, options),) = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    return embedded, options["pooled_output"]


def sample(model: Any, steps: int = 2) -> Tensor:
    """32 x 32 pixels of noise and a random prompt, in latents."""
    shapes = model.model_state_dict()
    width = shapes["diffusion_model.txt_in.weight"].shape[1]
    pooled = shapes["diffusion_model.vector_in.in_layer.weight"].shape[1]
    generator = torch.Generator().manual_seed(1)
    prompt = [[torch.randn(1, 40, width, generator=generator), {"pooled_output": torch.ones(1, pooled)}]]
    latent = {"samples": torch.zeros(1, 16, 4, 4)}
    (result,) = core_nodes.common_ksampler(model, 5, steps, 1.0, "euler", "simple", prompt, prompt, latent)
    return result["samples"]


def draw(loaded: tuple[Any, Any, Any], text: str = PROMPT) -> tuple[Tensor, ...]:
    """Results of the text encoders, the diffusion model and the VAE (decoded and encoded)."""
    model, clip, vae = loaded
    encoded = encode(clip, text)
    sampled = sample(model)
    pixels = vae.decode(sampled)
    return *encoded, sampled, pixels, vae.encode(pixels)


def same_bits(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(found, expected, strict=True))


@pytest.mark.turns(2)
@pytest.mark.parametrize(
    ("device", "flux"), [("Vulkan0", "F16"), ("Vulkan0", "Q8_0"), ("CPU", "F16"), ("CPU", "Q8_0"), ("CPU", "Q4_0")]
)
def test_same_picture_wherever_weights_live(runner_with: Callable[..., Any], device: str, flux: str) -> None:
    runner = runner_with()
    expected = draw(load_all(device, "device", flux))
    for weights in ("ram", "disk"):
        loaded = load_all(device, weights, flux)
        found = draw(loaded)
        if (device, flux, weights) == ("CPU", "Q4_0", "ram"):  # repacked kernels add in another order than plain ones
            for a, b in zip(found, expected, strict=True):
                assert float((a - b).norm() / b.norm()) < 2e-2
        else:
            assert same_bits(found, expected)
        streamed = {model.name for model in runner.memory().models if model.streamed}
        assert len(streamed) == (4 if (device, weights) == ("Vulkan0", "ram") else 0)


def test_disk_is_given_back_after_each_phase(runner_with: Callable[..., Any]) -> None:
    runner = runner_with()
    model, clip, vae = load_all("Vulkan0", "disk")

    def there() -> set[str]:
        return {model.name for model in runner.memory().models}

    encode(clip, PROMPT)
    assert len(there()) == 2  # both encoders are one phase
    seen: list[set[str]] = []

    def look(apply: Callable[..., Tensor], arguments: dict[str, Any]) -> Tensor:
        result = apply(arguments["input"], arguments["timestep"], **arguments["c"])
        seen.append(there())
        return result

    model.set_model_unet_function_wrapper(look)
    sampled = sample(model)
    assert [len(names) for names in seen] == [1, 1]
    assert there() == set()
    vae.decode(sampled)
    assert there() == set()
    assert {device.held for device in runner.memory().devices} == {0}


def test_phases_on_one_device_peak_at_the_largest(runner_with: Callable[..., Any]) -> None:
    """On a device that holds each component alone but not all of them, the picture is the same."""

    def peak(runner: Any) -> int:
        return next(device.peak for device in runner.memory().devices if device.name == "Vulkan0")

    runner = runner_with()
    expected = draw(load_all("Vulkan0", "device"))
    limit = peak(runner) - MIB
    tight = runner_with("--device-memory", str(limit))
    found = draw(load_all("Vulkan0", "device"))
    assert same_bits(found, expected)
    assert peak(tight) <= limit


def test_second_prompt_reloads_nothing(runner_with: Callable[..., Any]) -> None:
    runner = runner_with()
    loaded = load_all("Vulkan0", "device")
    draw(loaded)
    before = runner.memory()
    assert before.loads == 4
    draw(loaded, "a green cross on a white background")
    after = runner.memory()
    assert after.loads == 4
    assert [device.held for device in after.devices] == [device.held for device in before.devices]


def test_sizes_by_turns_stay_in_one_process(runner_with: Callable[..., Any]) -> None:
    """Each program frees the buffers of the one before, of which the driver may see nothing any more."""
    runner = runner_with()
    (vae,) = vae_nodes.GGMLVAE.execute("ae-micro.safetensors", "Vulkan0", "off", 512, 64).result
    latents = [torch.randn(1, 16, 4, width) for width in (4, 6)]
    vae.decode(latents[0])
    pid = runner.pid
    for turn in range(20):
        vae.decode(latents[turn % 2])
    assert runner.pid == pid


def test_budget_that_is_too_small_is_refused_with_one_that_works(runner_with: Callable[..., Any]) -> None:
    runner_with()
    expected = draw(load_all("Vulkan0", "ram"))
    with pytest.raises(Exception, match=r"needs ([\d,]+) MiB") as caught:
        draw(load_all("Vulkan0", "ram", budget=1))
    wanted = int(str(caught.value).split("it needs ")[1].split(" MiB")[0].replace(",", ""))
    assert same_bits(draw(load_all("Vulkan0", "ram", budget=max(wanted, 16))), expected)
