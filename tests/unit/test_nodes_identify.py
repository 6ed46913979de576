"""Files in circulation: what each is called in errors, by ComfyUI's own detection, and which text encoders it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from tests import checkpoints, random_models
from tests.checkpoints import behind
from tests.pack import part
from tests.random_models import Tensors

build = part("nodes.components.build")
encoder_build = part("nodes.components.encoder_build")
identify = part("nodes.components.identify")
weights = part("native.weights")

import comfy.sd  # noqa: E402

LLAMA = {name: torch.ones(4, 4) for name in (
    "token_embd.weight", "blk.0.attn_norm.weight", "blk.0.attn_q.weight", "blk.0.ffn_norm.weight")}  # fmt: skip


def in_llama_cpps_names(tensors: Tensors) -> Tensors:
    """A T5 as llama.cpp's converter has it."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, random_models.T5["num_layers"])
    return {str(names.get_name(name, (".weight",))): value for name, value in tensors.items()}


HELD: dict[str, tuple[Callable[[], Tensors], list[str]]] = {
    "FLUX": (random_models.flux, ["a diffusion model (FluxSchnell)"]),
    "FLUX in a checkpoint": (lambda: behind("model.diffusion_model.", random_models.flux()),
                             ["a diffusion model (FluxSchnell)"]),
    "T5": (random_models.t5, ["a text encoder (T5_BASE)"]),
    "T5 in llama.cpp's names": (lambda: in_llama_cpps_names(random_models.t5()), ["a text encoder (T5_BASE)"]),
    "CLIP-L": (random_models.clip_l, ["a text encoder (CLIP_L)"]),
    "CLIP-G": (lambda: random_models.clip_l(num_hidden_layers=32), ["a text encoder (CLIP_G)"]),
    "VAE": (random_models.vae, ["a VAE"]),
    "a checkpoint": (checkpoints.flux, [
        "a diffusion model (FluxSchnell)", "a text encoder (CLIP_L)", "a text encoder (T5_BASE)"]),
    "LoRA": (lambda: {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": torch.ones(4, 4)}, ["a LoRA"]),
    "ControlNet": (lambda: random_models.flux() | {"controlnet_blocks.0.weight": torch.ones(4, 4)}, ["a ControlNet"]),
    "a language model": (lambda: LLAMA, ["a language model"]),
    "unknown": (lambda: {"a.b": torch.ones(4, 4)}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", HELD)
def test_a_file_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    tensors, said = HELD[name]
    header = weights.read_header(random_models.write_safetensors(tmp_path / "model.safetensors", tensors()))
    assert [kind.description for kind in identify.identify(header)] == said
    message = str(identify.another_kind(header, "an upscaler"))
    assert message.startswith(f"{header.path} ")
    assert all(each in message for each in said or ["nor any model known here"])
    assert ("GGML Checkpoint" in message) == (len(said) > 1)


def encoders_of(*files: Tensors, folder: Path, model: str | None = None) -> dict[str, Any]:
    """The parameters of each text encoder in the files, by its class."""
    paths = [random_models.write_safetensors(folder / f"{i}.safetensors", each) for i, each in enumerate(files)]
    kind = model and getattr(comfy.sd.CLIPType, model)
    _, parts = encoder_build.text_encoders([weights.read_header(path) for path in paths], kind)
    return {type(each.core).__name__: each.weights.parameters for each in parts}


def test_a_checkpoint_holds_the_encoders_of_flux(tmp_path: Path) -> None:
    """And both may be in other files' company: a VAE, or eyes of CLIP."""
    found = encoders_of(checkpoints.flux(), folder=tmp_path)
    assert found["T5"].keys() == random_models.t5().keys()
    assert found["CLIPTextModel"].keys() == random_models.clip_l().keys()


@pytest.mark.parametrize("kept", [True, False], ids=["both names", "the other name"])
def test_t5_in_hugging_faces_names(tmp_path: Path, kept: bool) -> None:
    tensors = random_models.t5()
    alias = tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"].clone(), "lm_head.weight": torch.ones(3)}
    if not kept:
        del alias["shared.weight"]
    found = encoders_of(alias, random_models.clip_l(), folder=tmp_path)
    assert found["T5"].keys() == tensors.keys()
    weights.WeightSet("", found["T5"], ()).require({name: tuple(x.shape) for name, x in tensors.items()})


@pytest.mark.parametrize(
    ("absent", "lacks"),
    [
        ("encoder.block.1.layer.1.DenseReluDense.wi_1.weight", True),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", False),  # which says how many heads
        ("shared.weight", False),
        ("text_model.encoder.layers.1.self_attn.out_proj.bias", True),
    ],
)
def test_a_missing_tensor_is_named(tmp_path: Path, absent: str, lacks: bool) -> None:
    t5, clip = ({k: x for k, x in each.items() if k != absent} for each in (random_models.t5(), random_models.clip_l()))
    with pytest.raises(weights.WeightFileError, match=f"lacks {absent}" if lacks else r"0\.safetensors"):
        encoders_of(t5, clip, folder=tmp_path)
