"""VAEs of video and sound in tiles: real classes at small width, beside ComfyUI's own tiles of the same module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.bench import hollow_vaes
from tests.pack import part
from tools import places, vulkan

from .families import vae_audio, vae_video
from .families.case import on_meta
from .model_cases import randomize

import comfy.ldm.lightricks.vae.causal_video_autoencoder  # isort: skip
import comfy.utils  # isort: skip
from comfy.ldm.models.autoencoder import AutoencoderKL  # isort: skip

autoencoder, latent_axes = part("nodes.components.autoencoder"), part("nodes.components.latent_axes").latent_axes
tile_choice, weights = part("nodes.components.tile_choice"), part("native.weights")
parameter_of = part("native.weights.weight_set").parameter_of
placement, messages, client = part("native.placement"), part("native.wire.messages"), part("native.client.runner")


def _ltx() -> torch.nn.Module:
    blocks = [["compress_all", 1], ["res_x_y", 1], ["compress_all", 1], ["compress_all", 1], ["res_x", 1]]
    config = {
        "dims": 3, "latent_channels": 16, "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
        "blocks": blocks, "encoder_base_channels": 16, "decoder_base_channels": 16,
    }  # fmt: skip
    model = comfy.ldm.lightricks.vae.causal_video_autoencoder.VideoVAE(config=config)
    for name in model.per_channel_statistics._buffers:  # a file holds them
        model.per_channel_statistics._buffers[name] = torch.rand(16) + 0.5
    return model


def _hunyuan() -> torch.nn.Module:
    return AutoencoderKL(ddconfig=hollow_vaes._KL | {"ch": 32, "num_res_blocks": 1}, embed_dim=16)


SMALL: dict[str, Callable[[], torch.nn.Module]] = {
    "wan2.1": vae_video._wan,
    "ltx0.9": _ltx,
    "hunyuan": _hunyuan,
    "stable-audio": vae_audio._oobleck,
}
TOLERANCE = 3e-4  # the sines of sound


@pytest.fixture(scope="module", autouse=True)
def runner() -> Iterator[Any]:
    """The runner of this process's components, with lavapipe."""
    patch = pytest.MonkeyPatch()
    started = client.Runner(("--threads", "2"), vulkan.software_environment(places.here()))
    patch.setattr(client, "_shared", started)
    yield started
    patch.undo()
    started.close()


@pytest.fixture(scope="module", params=SMALL)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, torch.nn.Module]:
    """The facts of comfy.sd.VAE about the real one, the weights of a small one, and that."""
    torch.manual_seed(0)
    module = randomize(SMALL[request.param]()).eval()
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    safetensors.torch.save_file({name: x.contiguous() for name, x in module.state_dict().items()}, path)
    header = weights.read_header(path)
    parameters = {name: parameter_of(header, tensor, name) for name, tensor in header.tensors.items()}
    held = weights.WeightSet("a small VAE", parameters, ((header.path, header.size, header.mtime_ns),))
    return hollow_vaes.vae(request.param), held, module


@pytest.fixture
def component(small: Any) -> Iterator[Callable[[str], Any]]:
    """Makes components of the small one, which are unloaded in the end."""
    made: list[Any] = []

    def make(device: str) -> Any:
        facts, held, module = small
        where, tiles = placement.Placement(device, engine="ggml"), tile_choice.TileChoice("auto", 0, 64)
        made.append(autoencoder.VAEModule(on_meta(module), held, where, latent_axes(facts), tiles))
        return made[-1]

    yield make
    for each in made:
        each.engine_model.unload()


def latents(facts: Any, *size: int) -> Tensor:
    torch.manual_seed(1)
    channels = 64 if facts.latent_dim == 1 else 16
    return torch.randn(1, {64: 16}.get(channels, channels), *size[-facts.latent_dim :])


def error(result: Tensor, wanted: Tensor) -> float:
    assert result.shape == wanted.shape
    return float((result - wanted).abs().max() / wanted.abs().max())


@torch.inference_mode()
def test_tiles_in_space_and_time_are_those_of_comfyui(small: Any, component: Any) -> None:
    """Of sizes that need no tile moved back, as ComfyUI's last ones are smaller."""
    facts, _, module = small
    vae = component("CPU")
    z = latents(facts, 5, 6, 6) if facts.latent_dim == 3 else latents(facts, 10)
    tile, overlap = ((3, 4, 4), (1, 2, 2)) if facts.latent_dim == 3 else ((6,), (2,))
    wanted = comfy.utils.tiled_scale_multidim(
        z, module.decode, tile=tile, overlap=overlap, upscale_amount=facts.upscale_ratio,
        out_channels=facts.output_channels, index_formulas=facts.upscale_index_formula,
    )  # fmt: skip
    result = vae.decode_tiled(z, tile_x=tile[-1], tile_y=4, overlap=2, tile_t=3, overlap_t=1)
    assert error(result, wanted) <= TOLERANCE


@torch.inference_mode()
def test_encoded_tiles_are_those_of_comfyui(small: Any, component: Any) -> None:
    facts, _, module = small
    if facts.latent_dim == 1:
        pytest.skip("its encoder draws noise")
    vae, (time, side, _) = component("CPU"), facts.upscale_ratio
    x = torch.rand(1, 3, time(5), 3 * side, 5 * side // 2 * 2) * 2 - 1
    tile, overlap = (time(3), 2 * side, 3 * side), (time(1), side, side)
    wanted = comfy.utils.tiled_scale_multidim(
        x, module.encode, tile=tile, overlap=overlap, upscale_amount=facts.downscale_ratio, out_channels=16,
        downscale=True, index_formulas=facts.downscale_index_formula,
    )  # fmt: skip
    result = vae.encode_tiled(x, tile_x=3 * side, tile_y=2 * side, overlap=side, tile_t=time(3), overlap_t=time(1))
    assert error(result, wanted) <= TOLERANCE


@torch.inference_mode()
def test_what_fits_is_decoded_whole(small: Any, component: Any) -> None:
    facts, _, module = small
    z = latents(facts, 3, 4, 5)
    assert error(component("CPU").decode(z), module.decode(z)) <= TOLERANCE


@torch.inference_mode()
@pytest.mark.parametrize("device", ["CPU", pytest.param("Vulkan0", marks=pytest.mark.turns(4))])
def test_a_dry_run_takes_what_the_run_takes(small: Any, component: Any, device: str, runner: Any) -> None:
    facts, held, _ = small
    vae = component(device)
    tile = latents(facts, 3, 4, 4)
    program = vae.engine_model.lowered("decode", autoencoder._decode, {"x": tile}).program
    steps = [messages.Step("load", held, vae.engine_model.placement)]
    steps.append(messages.Step("run", held, vae.engine_model.placement, program))
    planned = runner.dry_run({"CPU": 1 << 40, device: 1 << 40}, steps).steps
    vae.decode_tiled(tile)
    assert dict(runner.peaks)[device] == planned[-1].peak[device]
