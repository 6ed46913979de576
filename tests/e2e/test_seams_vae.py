"""GGML VAE in core's VAE nodes, beside core's own VAE with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import random_models
from tests.core_models import core_vae, psnr
from tests.pack import part
from tools import places, vulkan

tiling = part("nodes.components.tiling")
tile_choice = part("nodes.components.tile_choice")
vae_module = part("nodes.components.autoencoder")
vae_nodes = part("nodes.loaders.vae")
weights = part("native.weights")

import comfy.model_management  # noqa: E402

import nodes as core_nodes  # noqa: E402


def of(ratio: float) -> Any:
    """Both sides of a picture, as long as this times those of another."""
    side = tiling.Axis(lambda n: int(n * ratio), lambda n: int(n * ratio))
    return side, side


@pytest.fixture(scope="module")
def tensors() -> random_models.Tensors:
    return random_models.vae()


@pytest.fixture(scope="module")
def core(tensors: random_models.Tensors) -> Any:
    return core_vae(tensors)


@pytest.fixture(scope="module", params=["gguf", "safetensors"])
def path(request: pytest.FixtureRequest, tensors: random_models.Tensors, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("vae")
    if request.param == "gguf":
        return random_models.write_gguf(folder / "vae.gguf", "vae", tensors)
    return random_models.write_safetensors(folder / "vae.safetensors", tensors)


def load(path: Path, mode: str = "auto", tile: int = 512, overlap: int = 64) -> Any:
    return vae_nodes.vae_of(weights.read_header(path), "CPU", vae_nodes.TileChoice(mode, tile, overlap))


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """Values that change slowly from place to place, as pictures and latents do."""
    coarse = torch.rand(shape[0], shape[1], 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=shape[2:], mode="bicubic", align_corners=True)


def picture(*shape: int) -> Tensor:
    return smooth(shape[0], 3, *shape[1:]).movedim(1, -1).clamp(0, 1)


def test_batch_of_pictures_both_ways(path: Path, core: Any) -> None:
    vae = load(path)
    latents, pixels = torch.randn(2, 16, 12, 10), picture(2, 99, 104)
    assert psnr(vae.decode(latents), core.decode(latents)) >= 60
    assert psnr(vae.encode(pixels), core.encode(pixels)) >= 60


def test_alpha_channel_is_dropped_as_in_core(path: Path, core: Any) -> None:
    pixels = torch.cat([picture(1, 64, 64), torch.ones(1, 64, 64, 1)], dim=-1)
    assert psnr(core_nodes.VAEEncode().encode(load(path), pixels)[0]["samples"], core.encode(pixels)) >= 60


def test_mask_for_inpainting(path: Path, core: Any) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, 20:40, 20:40] = 1.0
    node = core_nodes.VAEEncodeForInpaint()
    ours, theirs = (node.encode(vae, picture(1, 64, 64), mask)[0] for vae in (load(path), core))
    assert psnr(ours["samples"], theirs["samples"]) >= 60
    assert torch.equal(ours["noise_mask"], theirs["noise_mask"])


def spy(vae: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that the runner is given from now on."""
    run, shapes = vae.first_stage_model.engine_model.run, []

    def noted(key: Any, function: Any, inputs: dict[str, Tensor], **options: Any) -> Any:
        shapes.extend(tuple(x.shape) for x in inputs.values())
        return run(key, function, inputs, **options)

    monkeypatch.setattr(vae.first_stage_model.engine_model, "run", noted)
    return shapes


def test_tiles_are_of_one_shape_and_equal_cores_model_on_the_same_tiles(
    path: Path, core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vae, latents, pixels = load(path, "auto", 128, 32), torch.randn(2, 16, 40, 24), picture(1, 320, 192)
    shapes = spy(vae, monkeypatch)
    decoded, encoded = vae.decode(latents), vae.encode(pixels)
    assert set(shapes) == {(1, 16, 16, 16), (1, 3, 128, 128)}
    model, cut = core.first_stage_model, tiling.Tiling
    expected = tiling.map_tiles(model.decode, latents, cut((16, 16), (4, 4)), of(8))
    assert psnr(decoded, core.process_output(expected).movedim(1, -1)) >= 60
    given = core.process_input(pixels.movedim(-1, 1))
    assert psnr(encoded, tiling.map_tiles(model.encode, given, cut((128, 128), (32, 32)), of(1 / 8))) >= 60


def test_tiles_make_nearly_the_whole_picture(path: Path) -> None:
    """Nearly: a VAE's norms and attention look at all they are given. Noise looks much the same everywhere."""
    latents, pixels = torch.randn(1, 16, 64, 40), torch.rand(1, 512, 320, 3)
    tiled, whole = load(path, "auto", 256, 64), load(path, "off")
    assert psnr(tiled.decode(latents), whole.decode(latents)) >= 25
    assert psnr(tiled.encode(pixels), whole.encode(pixels)) >= 25


def test_core_asks_for_tiles(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VAE Decode (Tiled) and VAE Encode (Tiled), whose tiles are their own whatever the loader says."""
    vae, latents, pixels = load(path, "off"), torch.randn(1, 16, 40, 24), picture(1, 320, 192)
    shapes = spy(vae, monkeypatch)
    decoded = core_nodes.VAEDecodeTiled().decode(vae, {"samples": latents}, tile_size=128, overlap=32)[0]
    encoded = core_nodes.VAEEncodeTiled().encode(vae, pixels, tile_size=128, overlap=32)[0]["samples"]
    assert set(shapes) == {(1, 16, 16, 16), (1, 3, 128, 128)}
    monkeypatch.undo()
    tiles = load(path, "on", 128, 32)
    assert torch.equal(decoded, tiles.decode(latents))
    assert torch.equal(encoded, tiles.encode(pixels))


def without_room(vae: Any, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """A VAE that finds no memory for more than 32 latents along a side; returns the shapes that it is given."""
    client = part("native.client")
    run, shapes = vae.first_stage_model.engine_model.run, []

    def small(key: Any, function: Any, inputs: dict[str, Tensor], **options: Any) -> Any:
        (x,) = inputs.values()
        shapes.append(tuple(x.shape))
        if max(x.shape[-2:]) > 32:
            raise client.OutOfMemory("CPU", "the compute buffer", 9, 1)
        return run(key, function, inputs, **options)

    monkeypatch.setattr(vae.first_stage_model.engine_model, "run", small)
    return shapes


def test_auto_that_finds_no_memory_is_tried_in_core_s_tiles(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = load(path, "auto")
    shapes = without_room(vae, monkeypatch)
    assert vae.decode(smooth(1, 16, 40, 33)).shape == (1, 320, 264, 3)
    assert shapes[0] == (1, 16, 40, 33)
    assert set(shapes[1:]) == {(1, 16, 32, 32)}


@pytest.mark.parametrize(("mode", "tile"), [("off", 0), ("on", 512)])
def test_what_is_to_be_whole_or_in_given_tiles_is_not_cut_otherwise(
    path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, tile: int
) -> None:
    """The planner has said so."""
    vae = load(path, mode, tile)
    shapes = without_room(vae, monkeypatch)
    with pytest.raises(RuntimeError, match="the compute buffer needs"):
        vae.decode(smooth(1, 16, 40, 33))
    assert set(shapes) == {(1, 16, 40, 33)}


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """small_gpu(options of the runner): every VAE loaded from now on is on such a Vulkan0."""
    module, runners = part("native.client.runner"), []

    def start(*options: str) -> None:
        runners.append(module.Runner(options, vulkan.software_environment(places.here())))
        monkeypatch.setattr(module, "_shared", runners[-1])

    yield start
    for runner in runners:
        runner.close()


def on_gpu(path: Path, tile: int = 0) -> Any:
    return vae_nodes.vae_of(weights.read_header(path), "Vulkan0", tile_choice.TileChoice("auto", tile, 16))


def test_auto_takes_the_largest_tiles_that_fit_a_gpu(
    tensors: random_models.Tensors, core: Any, small_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = random_models.write_safetensors(tmp_path / "vae.safetensors", tensors)
    latents = torch.randn(1, 16, 24, 16)

    def chosen(*options: str, tile: int = 0) -> tuple[Any, Any]:
        small_gpu(*options)
        module = (vae := on_gpu(path, tile)).first_stage_model
        module.load()
        return vae, module.decoding_tiles(latents)

    vae, cut = chosen()
    assert cut.size == (24, 16)
    tile = latents[:, :, :13, :9]  # of two each way
    measured = vae.first_stage_model.engine_model.estimate("decode", vae_module._decode, {"x": tile})
    memory = str(vae.first_stage_model.nbytes + (1 << 20) + measured.compute + measured.constants)
    expected = tiling.Tiling((13, 9), (2, 2))
    assert chosen("--largest-buffer", str(measured.largest_tensor))[1] == expected
    assert chosen("--device-memory", memory, tile=256)[1] == expected  # as large as was asked for does not fit
    vae, cut = chosen("--device-memory", memory)
    assert cut == expected
    shapes = spy(vae, monkeypatch)
    pictures = vae.decode(latents)
    assert set(shapes) == {(1, 16, 13, 9)}
    in_tiles = tiling.map_tiles(core.first_stage_model.decode, latents, expected, of(8))
    assert psnr(pictures, core.process_output(in_tiles).movedim(1, -1)) >= 40


def test_tiles_are_chosen_beside_the_weights(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where residency "disk" has unloaded them after the phase before, and core does not load them again."""
    placed = part("native.placement").Placement("CPU", "disk")
    vae = vae_nodes.vae_of(weights.read_header(path), placed, vae_nodes.TileChoice("auto", 0, 16))
    model, found = vae.first_stage_model, []
    fits = type(model.engine_model).fits

    def noted(self: Any, *args: Any) -> bool:
        found.append(model.loaded.is_loaded)
        return bool(fits(self, *args))

    monkeypatch.setattr(type(model.engine_model), "fits", noted)
    for _ in range(2):
        vae.decode(torch.randn(1, 16, 10, 26))
        assert not model.loaded.is_loaded
    assert found
    assert all(found)


def test_interrupt_between_tiles(path: Path) -> None:
    vae = load(path, "auto", 64, 16)
    vae.decode(smooth(1, 16, 8, 8))
    decode, calls = vae.first_stage_model._decode, []

    def one(tile: Tensor) -> Tensor:
        calls.append(1)
        comfy.model_management.interrupt_current_processing(len(calls) == 2)
        return decode(tile)

    vae.first_stage_model._decode = one
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        vae.decode(smooth(1, 16, 40, 24))
    assert len(calls) == 2


def test_saving_is_refused_in_clear_words(path: Path) -> None:
    with pytest.raises(NotImplementedError, match="cannot be saved"):
        load(path).get_sd()
