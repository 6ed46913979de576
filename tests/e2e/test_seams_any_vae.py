"""Every autoencoder that ComfyUI detects: a file in the names of files, our loader, comfy.sd.VAE's own methods.

Core's own VAE of the same file is what each is compared with, and both detect it as they do at real width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import random_models
from tests.conftest import SIXTHS
from tests.pack import part

from .vae_kinds import KINDS, VAEKind

loader = part("nodes.loaders.vae")
placement = part("native.placement")
weights = part("native.weights")

import comfy.sd  # noqa: E402

BY_NAME = {kind.name: kind for kind in KINDS}
# Few channels, so that lavapipe is done in seconds.
ON_VULKAN = ("TAESD", "HunyuanImage refiner", "Stable Audio 3")


@pytest.fixture(scope="session")
def turn(pytestconfig: pytest.Config) -> int | None:
    """Which sixth of the kinds runs today; None: all of them."""
    return None if pytestconfig.getoption("--all") else pytestconfig.getoption("--sample") % SIXTHS


def loaded(path: Path, device: str = "CPU", mode: str = "auto", tile: int = 0) -> Any:
    where = placement.Placement(device, engine="ggml" if device == "CPU" else "auto")
    with torch.inference_mode():  # as ComfyUI runs nodes
        return loader.vae_of(weights.read_header(path), where, loader.TileChoice(mode, tile, 64))


def pair(kind: VAEKind, folder: Path, device: str = "CPU") -> tuple[Any, Any]:
    """Ours and core's of a file of that kind."""
    path = folder / "vae.safetensors"
    save_file(kind.tensors(), path, dict(kind.metadata))
    with kind.small():
        core = comfy.sd.VAE(load_file(path), torch.device("cpu"), dtype=torch.float32, metadata=dict(kind.metadata))
        return loaded(path, device), core


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest value."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-9))


def latents(kind: VAEKind) -> torch.Tensor:
    assert kind.latents is not None
    return torch.randn(kind.latents, generator=torch.Generator().manual_seed(5))


def pixels(kind: VAEKind) -> torch.Tensor:
    """Pictures, frames [count, height, width, 3] or sound [1, samples, 2]."""
    assert kind.pixels is not None
    return torch.rand(kind.pixels, generator=torch.Generator().manual_seed(6))


def both_ways(kind: VAEKind, ours: Any, core: Any) -> list[float]:
    errors = []
    with torch.inference_mode():
        if kind.latents:
            options = {"vae_options": dict(kind.options)} if kind.options else {}
            errors.append(error(*(seeded(vae.decode, latents(kind), **options) for vae in (ours, core))))
        if kind.pixels:
            errors.append(error(*(seeded(vae.encode, pixels(kind)) for vae in (ours, core))))
    return errors


def seeded(function: Callable[..., torch.Tensor], x: torch.Tensor, **options: Any) -> torch.Tensor:
    """The result where noise begins with one seed: decoders with a timestep draw it, and encoders of sound."""
    torch.manual_seed(1)
    return function(x, **options)


@pytest.mark.parametrize("name", [kind.name for kind in KINDS if kind.latents or kind.pixels])
def test_decodes_and_encodes_as_core(name: str, tmp_path: Path, turn: int | None) -> None:
    kind = BY_NAME[name]
    if turn is not None and list(BY_NAME).index(name) % SIXTHS != turn:
        pytest.skip("another day's third")
    ours, core = pair(kind, tmp_path)
    errors = both_ways(kind, ours, core)
    assert errors
    assert max(errors) <= kind.tolerance, errors


@pytest.mark.parametrize("name", ON_VULKAN)
def test_on_lavapipe(name: str, tmp_path: Path) -> None:
    kind = BY_NAME[name]
    ours, core = pair(kind, tmp_path, "Vulkan0")
    assert max(both_ways(kind, ours, core)) <= 2e-2


@pytest.mark.parametrize("name", ["TAESD", "TAEW 2.2"])
def test_gguf(name: str, tmp_path: Path) -> None:
    kind = BY_NAME[name]
    tensors = kind.tensors()
    writer = gguf.GGUFWriter(tmp_path / "vae.gguf", "vae")
    for key, value in tensors.items():
        writer.add_tensor(key, value.numpy().astype(np.float32 if value.ndim < 2 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    core = comfy.sd.VAE(tensors, torch.device("cpu"), dtype=torch.float32)
    assert max(both_ways(kind, loaded(tmp_path / "vae.gguf"), core)) <= 5e-3


def test_flux_in_the_names_of_diffusers(tmp_path: Path) -> None:
    """A report has it called "a VAE, not a VAE" (black-forest-labs/flux #457)."""
    import comfy.diffusers_convert as convert

    kind = BY_NAME["FLUX.1, SD3"]
    original = kind.tensors()
    theirs = {}
    for name, value in original.items():
        renamed = _diffusers_name(name, convert)
        flat = ".attentions." in renamed and value.ndim == 4
        theirs[renamed] = value[:, :, 0, 0].clone() if flat else value
    assert "decoder.up_blocks.0.resnets.0.norm1.weight" in theirs
    save_file(theirs, tmp_path / "diffusion_pytorch_model.safetensors")
    with kind.small():
        core = comfy.sd.VAE(original, torch.device("cpu"), dtype=torch.float32)
        ours = loaded(tmp_path / "diffusion_pytorch_model.safetensors")
    assert not ours.first_stage_model.engine_model.weights.arrays
    with torch.inference_mode():
        assert error(ours.decode(latents(kind)), core.decode(latents(kind))) <= kind.tolerance


_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def _diffusers_name(name: str, convert: Any) -> str:
    """A name of ours in diffusers' layout, by core's own table the other way around."""
    for ours, theirs in convert.vae_conversion_map:
        name = name.replace(ours, theirs)
    if "attentions" in name:
        stem, layer, end = name.rsplit(".", 2)
        name = f"{stem}.{_ATTENTION[layer]}.{end}"
    return name


def test_frames_of_svd_are_decoded_together_in_tiles(tmp_path: Path) -> None:
    """Its decoder mixes the pictures of a batch: cut in space, never into single frames."""
    kind = BY_NAME["SVD"]
    with kind.small():
        ours, core = pair(kind, tmp_path)
    module, shapes = ours.first_stage_model, list[tuple[int, ...]]()
    run = module.engine_model.run

    def noted(key: Any, function: Any, inputs: dict[str, torch.Tensor], **options: Any) -> Any:
        shapes.extend(tuple(x.shape) for x in inputs.values())
        return run(key, function, inputs, **options)

    module.engine_model.run = noted
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        whole, tiled = core.decode(z), ours.decode_tiled(z, tile_x=6, tile_y=8, overlap=4)
    assert set(shapes) == {(2, 4, 8, 6)}
    assert tiled.shape == whole.shape


def test_what_nodes_ask_an_autoencoder_for(tmp_path: Path) -> None:
    """As comfy_extras/nodes_lt_audio.py and nodes_lt_upsampler.py do."""
    audio, theirs = (vae.first_stage_model for vae in pair(BY_NAME["LTX-2 audio"], tmp_path))
    assert audio.num_of_latents_from_frames(97, 25.0) == theirs.num_of_latents_from_frames(97, 25.0) > 0
    assert audio.output_sample_rate == theirs.output_sample_rate > 0
    assert audio.latent_frequency_bins == theirs.latent_frequency_bins > 0
    video, core = pair(BY_NAME["LTX-Video 0.9"], tmp_path)
    z = latents(BY_NAME["LTX-Video 0.9"])
    ours, theirs = (vae.first_stage_model.per_channel_statistics for vae in (video, core))
    torch.testing.assert_close(ours.normalize(ours.un_normalize(z)), z)
    torch.testing.assert_close(ours.un_normalize(z), theirs.un_normalize(z))


@pytest.mark.parametrize("name", ["TAEW 2.2", "SVD", "Stable Audio 3", "Hunyuan3D", "SeedVR2"])
def test_planned(name: str, tmp_path: Path) -> None:
    """Decoding and encoding in a plan have the shapes that they have, without memory for values."""
    kind = BY_NAME[name]
    path = tmp_path / "vae.safetensors"
    save_file(kind.tensors(), path, dict(kind.metadata))
    client, dry_run, planning = (part(f"native.{name}") for name in ("client", "engines.dry_run", "planning"))
    capacity = {device.name: 1 << 40 for device in client.shared().devices()}
    recorder = dry_run.Recorder(client.shared(), planning.Machine(tuple(client.shared().devices()), capacity))
    with part("nodes.components.host").dry_run_host(recorder), kind.small(), torch.inference_mode():
        vae = part("nodes.planner.planned_models").planned_model(loaded(path))
        core = comfy.sd.VAE(load_file(path), torch.device("cpu"), dtype=torch.float32, metadata=dict(kind.metadata))
        options = {"vae_options": dict(kind.options)} if kind.options else {}
        decoded = vae.decode(latents(kind), **options)
        assert decoded.shape == core.decode(latents(kind), **options).shape
        if kind.pixels:
            assert vae.encode(pixels(kind)).shape == core.encode(pixels(kind)).shape
    plan = recorder.plan()
    assert plan.peaks["CPU"] > 0


@pytest.mark.parametrize("name", ["taesd", "taef2"])
def test_pairs_of_files_are_one_vae(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ComfyUI's Load VAE has them, whose scales no file holds."""
    import comfy.taesd.taesd
    import folder_paths

    import nodes as core_nodes

    channels = {"taesd": 4, "taef2": 128}[name]
    module = comfy.taesd.taesd.TAESD(latent_channels=channels)
    for half, part_of_it in (("encoder", module.taesd_encoder), ("decoder", module.taesd_decoder)):
        tensors = random_models.randomize(part_of_it, 7)
        random_models.write_safetensors(tmp_path / f"{name}_{half}.safetensors", tensors, torch.float32)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae_approx", ([str(tmp_path)], {".safetensors"}))
    folder_paths.filename_list_cache.pop("vae_approx", None)
    assert name in loader.GGMLVAE.define_schema().inputs[0].options
    assert len(loader.GGMLVAE.fingerprint_inputs(name)) == 2
    (ours,) = loader.GGMLVAE.execute(name, "CPU", "auto", 0, 64).result
    (core,) = core_nodes.VAELoader().load_vae(name)
    z = torch.randn(1, channels, 4, 6, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        assert error(ours.decode(z), core.decode(z).float()) <= 2e-2  # core's may compute in BF16
        assert ours.encode(torch.rand(1, 32, 48, 3)).shape[1] == channels


def test_the_vae_of_no_file() -> None:
    """For models without latents: core offers it among the files."""
    import nodes as core_nodes

    assert "pixel_space" in loader.GGMLVAE.define_schema().inputs[0].options
    assert loader.GGMLVAE.fingerprint_inputs("pixel_space") == []
    (ours,) = loader.GGMLVAE.execute("pixel_space", "CPU", "auto", 0, 64).result
    (core,) = core_nodes.VAELoader().load_vae("pixel_space")
    pixels = torch.rand(1, 8, 16, 3, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        latents = core.encode(pixels)
        torch.testing.assert_close(ours.encode(pixels), latents)
        torch.testing.assert_close(ours.decode(latents), core.decode(latents))


def test_half_an_autoencoder_does_its_half(tmp_path: Path) -> None:
    kind = BY_NAME["TAESD"]
    tensors = {name: x for name, x in kind.tensors().items() if "encoder" not in name}
    path = random_models.write_safetensors(tmp_path / "decoder.safetensors", tensors, torch.float32)
    core, ours = comfy.sd.VAE(tensors, torch.device("cpu"), dtype=torch.float32), loaded(path)
    with torch.inference_mode():
        assert error(ours.decode(latents(kind)), core.decode(latents(kind))) <= kind.tolerance
        with pytest.raises(weights.WeightFileError, match=r"decoder.safetensors has no taesd_encoder"):
            ours.encode(pixels(kind))


@pytest.mark.parametrize(("device", "tolerance"), [("CPU", 1e-3), ("Vulkan0", 2e-2)])
def test_splats_are_decoded_as_by_core(device: str, tolerance: float, tmp_path: Path) -> None:
    """As comfy_extras/nodes_triposplat.py does; where points are is drawn on the host, by a seed."""
    from comfy_extras.nodes_triposplat import VAEDecodeTripoSplat

    ours, core = pair(BY_NAME["TripoSplat"], tmp_path, device)
    z = torch.randn(1, 24, 16, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        found, expected = (VAEDecodeTripoSplat.execute({"samples": z}, vae, 32768, 3).result[0] for vae in (ours, core))
    for name in ("positions", "scales", "rotations", "opacities", "sh"):
        assert error(getattr(found, name), getattr(expected, name)) <= tolerance


def test_what_splats_are_drawn_by(tmp_path: Path) -> None:
    """The odds of each octant, which hang on the latent."""
    kind = replace(BY_NAME["TripoSplat"], zeros=())
    ours, core = pair(kind, tmp_path)
    z = torch.randn(1, 24, 16, generator=torch.Generator().manual_seed(5))
    points, level = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(6)), torch.full((1,), 8)
    with torch.inference_mode():
        found, expected = (vae.first_stage_model.octree(points, level, z)["probs"] for vae in (ours, core))
        other = core.first_stage_model.octree(points, level, 2 * z)["probs"]
    assert error(found, expected) <= kind.tolerance < error(other, expected)
