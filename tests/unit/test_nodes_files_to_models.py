"""From files to models: sizes out of tensor shapes, and clear words where a file is not what a node needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import random_models
from tests.pack import part

encoders = part("nodes.loaders.text_encoders")
diffusion = part("nodes.loaders.diffusion")
vae = part("nodes.loaders.vae")
weights = part("native.weights")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5, a CLIP-L, a VAE and a FLUX.1."""
    path = tmp_path_factory.mktemp("models")
    random_models.write_gguf(path / "t5.gguf", "t5", random_models.t5())
    random_models.write_safetensors(path / "clip_l.safetensors", random_models.clip_l())
    random_models.write_gguf(path / "vae.gguf", "vae", random_models.vae())
    random_models.write_gguf(path / "flux.gguf", "flux", random_models.flux())
    return path


def test_encoders_are_known_by_their_tensors_in_any_order(folder: Path) -> None:
    found = encoders.read_encoders(
        [weights.read_header(folder / "clip_l.safetensors"), weights.read_header(folder / "t5.gguf")]
    )
    assert encoders.t5_config(found["t5"]) == random_models.T5
    assert encoders.clip_config(found["clip_l"]) == random_models.CLIP


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["t5.gguf"], r"holds no CLIP-L \(such as clip_l\.safetensors\)\. Choose one in another input"),
        (["clip_l.safetensors"], r"holds no T5-XXL \(such as"),
        (["t5.gguf", "t5.gguf"], "are both a T5 text encoder"),
        (["t5.gguf", "vae.gguf"], "seems to be a VAE"),
        (["flux.gguf"], "seems to be a FLUX.1 diffusion model"),
    ],
)
def test_other_files_are_refused_in_clear_words(folder: Path, names: list[str], message: str) -> None:
    with pytest.raises(weights.WeightFileError, match=message):
        encoders.read_encoders([weights.read_header(folder / name) for name in names])


@pytest.mark.parametrize(
    ("name", "flat"),
    [
        ("t5", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("clip_l", "text_model.embeddings.position_embedding.weight"),
    ],
)
def test_encoder_whose_shapes_tell_no_sizes_is_refused(tmp_path: Path, name: str, flat: str) -> None:
    tensors = {"t5": random_models.t5(), "clip_l": random_models.clip_l()}
    tensors[name][flat] = tensors[name][flat].flatten()
    paths = [random_models.write_safetensors(tmp_path / f"{key}.safetensors", tensors[key]) for key in tensors]
    found = encoders.read_encoders([weights.read_header(path) for path in paths])
    message = rf"{name}\.safetensors do not describe a whole .*Error: .*download it again"
    with pytest.raises(weights.WeightFileError, match=message):
        encoders.load_encoders(found["clip_l"], found["t5"], "CPU")


def test_another_vocabulary_is_no_t5_of_flux(folder: Path, tmp_path: Path) -> None:
    """UMT5 in place of T5-XXL drew nonsense without a word (ComfyUI-GGUF #343)."""
    path = random_models.write_safetensors(tmp_path / "umt5.safetensors", random_models.t5(vocab_size=4000))
    with pytest.raises(weights.WeightFileError, match=r"umt5.safetensors has 4,000 tokens .* would draw nonsense"):
        encoders.read_encoders([weights.read_header(folder / "clip_l.safetensors"), weights.read_header(path)])


@pytest.mark.parametrize(("stored", "is_lossy"), [("Q4_K", True), ("IQ4_XS", True), ("Q5_K", False), ("F16", False)])
def test_encoders_below_q5_are_told(stored: str, is_lossy: bool) -> None:
    def parameter(name: str, type_: str, nbytes: int) -> object:
        return weights.Parameter(name, type_, (1,), (weights.Run("", type_, 0, nbytes),))

    made = weights.WeightSet("", {"a": parameter("a", stored, 10), "b": parameter("b", "F32", 9)}, ())
    assert encoders.lossy(made) == (stored if is_lossy else None)


@pytest.mark.parametrize("changes", [{}, {"hidden_size": 128, "num_heads": 1, "depth_single_blocks": 1}, {"depth": 1}])
@pytest.mark.parametrize("guidance", [False, True])
def test_diffusion_model_of_any_size(tmp_path: Path, changes: dict[str, int], guidance: bool) -> None:
    tensors = random_models.flux(guidance_embed=guidance, **changes)
    path = random_models.write_gguf(tmp_path / "flux.gguf", "flux", tensors)
    patcher = diffusion.load_diffusion(weights.read_header(path), "CPU")
    core = patcher.model.diffusion_model.engine_model.module
    assert {name: tensor.shape for name, tensor in core.state_dict().items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }
    assert all(parameter.is_meta for parameter in core.parameters())
    assert core.params.guidance_embed == guidance
    assert type(patcher.model.model_config).__name__ == ("Flux" if guidance else "FluxSchnell")
    assert patcher.model_size() == sum(t.numel() * (4 if t.ndim == 1 else 2) for t in tensors.values())


@pytest.mark.parametrize(
    ("chosen", "device"),
    [({}, "CPU"), ({"weights": "auto"}, "CPU"), ({"weights": "disk"}, "CPU"),
     ({"weights": "ram", "budget": 700}, "Vulkan0")],
)  # fmt: skip
def test_choice_of_where_weights_live_reaches_every_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, Any], device: str
) -> None:
    for module in (diffusion, encoders, vae):
        monkeypatch.setattr(module, "model_path", lambda _folder, name: str(folder / name))
    (model,) = diffusion.GGMLDiffusionModel.execute("flux.gguf", device, **chosen).result
    (clip,) = encoders.GGMLTextEncoders.execute("t5.gguf", device, "clip_l.safetensors", **chosen).result
    (decoder,) = vae.GGMLVAE.execute("vae.gguf", device, "auto", 512, 64, **chosen).result
    held = [
        model.model.diffusion_model,
        clip.cond_stage_model.clip_l.transformer,
        clip.cond_stage_model.t5xxl.transformer,
        decoder.first_stage_model,
    ]
    expected = (device, chosen.get("weights", "auto"), chosen.get("budget", 0) << 20)
    for module in held:
        placement = module.engine_model.placement
        assert (placement.device, placement.residency, placement.budget) == expected


def test_modules_have_their_weights_under_dynamic_vram(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NVIDIA's dynamic VRAM core's Linear has no weight until a file is loaded into it."""
    import comfy.memory_management

    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    patcher = diffusion.load_diffusion(weights.read_header(folder / "flux.gguf"), "CPU")
    assert patcher.model.state_dict()["diffusion_model.img_in.weight"].shape == (random_models.FLUX["hidden_size"], 64)


def test_vae_of_any_size(folder: Path) -> None:
    made = vae.vae_of(weights.read_header(folder / "vae.gguf"), "CPU", vae.TileChoice("auto", 512, 64))
    assert made.latent_channels == 16
    assert made.spacial_compression_decode() == 8
    assert made.model_size() == made.patcher.model_size() > 0


def test_vae_that_lacks_a_block_is_refused(tmp_path: Path) -> None:
    tensors = random_models.vae()
    del tensors["decoder.mid.attn_1.q.weight"]
    path = random_models.write_gguf(tmp_path / "vae.gguf", "vae", tensors)
    with pytest.raises(weights.WeightFileError, match=r"vae.gguf seems .* lacks decoder\.mid\.attn_1\.q\.weight"):
        vae.vae_of(weights.read_header(path), "CPU", vae.TileChoice("auto", 512, 64))


def test_token_embedding_reads_rows(folder: Path) -> None:
    read = weights.t5(weights.read_header(folder / "t5.gguf"))
    layer = part("nodes.components.component").MetaOperations.Embedding(1, 1)
    embedding = part("nodes.components.encoder").TokenEmbedding(layer, lambda: read.parameters["shared.weight"])
    tokens = torch.tensor([[5, 32127, 0], [5, 5, 1]])
    torch.testing.assert_close(embedding(tokens), random_models.t5()["shared.weight"][tokens])
