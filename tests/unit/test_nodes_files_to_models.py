"""From files to models: sizes out of tensor shapes, and clear words where a file is not what a node needs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import random_models
from tests.pack import part

build = part("nodes.components.build")
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


def load(folder: Path, names: list[str], model: str = "auto") -> tuple[Any, Any]:
    return encoders.load_encoders([weights.read_header(folder / name) for name in names], model, "CPU")


@pytest.mark.parametrize("model", ["auto", "flux"])
def test_encoders_of_any_size_in_any_order(folder: Path, model: str) -> None:
    clip, held = load(folder, ["clip_l.safetensors", "t5.gguf"], model)
    assert type(clip.cond_stage_model).__name__ == "FluxClipModel_"
    assert [len(each.parameters) for each in held] == [len(random_models.clip_l()), len(random_models.t5())]
    heads = {each.num_heads for each in clip.cond_stage_model.t5xxl.transformer.engine_model.module.modules()
             if hasattr(each, "num_heads")}  # fmt: skip
    assert heads == {random_models.T5["num_heads"]}


def test_tokenizers_are_read_once(folder: Path) -> None:
    first, second = (load(folder, ["clip_l.safetensors", "t5.gguf"])[0] for _ in range(2))
    assert first.tokenizer is second.tokenizer


@pytest.mark.parametrize(
    ("names", "model", "message"),
    [
        (["t5.gguf"], "flux", "is a T5_BASE, beside which FLUX has a CLIP_L. Choose that in another input"),
        (["clip_l.safetensors"], "flux", "is a CLIP_L, beside which FLUX has a T5_XXL"),
        (["t5.gguf", "t5.gguf"], "auto", "T5_BASE and T5_BASE do not say which model they are for"),
        (["t5.gguf", "t5.gguf"], "flux", r"CLIPTextModel \(clip_l.transformer\), of which .* have nothing"),
        (["t5.gguf", "clip_l.safetensors", "vae.gguf"], "flux", "vae.gguf seems to be a VAE"),
        (["t5.gguf", "vae.gguf"], "auto", "vae.gguf seems to be a VAE"),
        (["vae.gguf"], "flux", "vae.gguf seems to be a VAE, not a text encoder. Choose it in GGML VAE"),
        (["flux.gguf"], "auto", r"seems to be a diffusion model \(FluxSchnell\)"),
    ],
)
def test_other_files_are_refused_in_clear_words(folder: Path, names: list[str], model: str, message: str) -> None:
    with pytest.raises(weights.WeightFileError, match=message):
        load(folder, names, model)


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
    for key in tensors:
        random_models.write_safetensors(tmp_path / f"{key}.safetensors", tensors[key])
    with pytest.raises(weights.WeightFileError, match=r"\.safetensors do not describe a whole .*Error: .*download it"):
        load(tmp_path, ["t5.safetensors", "clip_l.safetensors"])


def test_a_package_that_does_not_fit_core_is_not_the_files_fault(tmp_path: Path) -> None:
    """As transformers from 5.15 on, whose converter of Mistral's tokenizer takes a file in place of a vocabulary."""
    path = random_models.write_safetensors(tmp_path / "clip_l.safetensors", random_models.clip_l())

    def convert(vocab_file: str) -> None: ...

    for call in (lambda: convert(vocab={}), convert, lambda: importlib.import_module("no_such_package")):
        header = weights.read_header(path)
        with pytest.raises(weights.WeightFileError, match=r"does not fit .*l\.safetensors is not the cause"), \
             build.described(header, "set of text encoders"):  # fmt: skip
            call()


def test_another_vocabulary_is_no_t5_of_flux(folder: Path, tmp_path: Path) -> None:
    """UMT5 in place of T5-XXL drew nonsense without a word (ComfyUI-GGUF #343)."""
    random_models.write_safetensors(tmp_path / "umt5.safetensors", random_models.t5(vocab_size=4000))
    with pytest.raises(weights.WeightFileError, match=r"shared.weight is \[4000, 96\], where \[32128, 96\] is needed"):
        load(folder, ["clip_l.safetensors", str(tmp_path / "umt5.safetensors")])


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
    _, (_, read) = load(folder, ["t5.gguf", "clip_l.safetensors"])
    layer = part("nodes.components.component").MetaOperations.Embedding(1, 1)
    embedding = part("nodes.components.encoder").TokenEmbedding(layer, lambda: read.parameters["shared.weight"])
    tokens = torch.tensor([[5, 32127, 0], [5, 5, 1]])
    torch.testing.assert_close(embedding(tokens), random_models.t5()["shared.weight"][tokens])
