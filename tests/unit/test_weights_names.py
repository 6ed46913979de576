"""Names of the files in circulation to the parameters of ComfyUI's own modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from native.weights import WeightFileError, WeightSet, clip_l, identify, read_header, read_parameter, t5

from .. import pack

pack.comfy()

import comfy.clip_model  # noqa: E402
import comfy.ldm.flux.model  # noqa: E402
import comfy.ldm.models.autoencoder  # noqa: E402
import comfy.model_detection  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.text_encoders.t5  # noqa: E402

Write = Callable[..., Path]
Tensors = dict[str, torch.Tensor]

FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": 64, "hidden_size": 128, "mlp_ratio": 4.0,
    "num_heads": 1, "depth": 2, "depth_single_blocks": 3, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "txt_ids_dims": [],
}  # fmt: skip
T5 = {
    "d_model": 64, "d_kv": 32, "num_heads": 4, "d_ff": 96, "num_layers": 3, "vocab_size": 100, "is_gated_act": True,
    "dense_act_fn": "gelu_pytorch_tanh", "model_type": "t5",
}  # fmt: skip
CLIP = {
    "hidden_size": 32, "num_attention_heads": 1, "intermediate_size": 64, "num_hidden_layers": 2,
    "hidden_act": "quick_gelu", "max_position_embeddings": 77, "eos_token_id": 49407,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
PLACE = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}


def filled(module: torch.nn.Module) -> Tensors:
    """The module's tensors with seeded values."""
    source = torch.Generator().manual_seed(1)
    return {name: torch.randn(value.shape, generator=source) for name, value in module.state_dict().items()}


def flux_tensors(guidance: bool = False) -> Tensors:
    return filled(comfy.ldm.flux.model.Flux(**FLUX, guidance_embed=guidance, **PLACE))


def t5_tensors(**changes: Any) -> Tensors:
    return filled(comfy.text_encoders.t5.T5(T5 | changes, torch.float32, "cpu", comfy.ops.disable_weight_init))


def clip_tensors(**changes: Any) -> Tensors:
    return filled(comfy.clip_model.CLIPTextModel(CLIP | changes, torch.float32, "cpu", comfy.ops.disable_weight_init))


def vae_tensors() -> Tensors:
    module = "comfy.ldm.modules.diffusionmodules.model"
    return filled(
        comfy.ldm.models.autoencoder.AutoencodingEngine(
            regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
            encoder_config={"target": f"{module}.Encoder", "params": VAE},
            decoder_config={"target": f"{module}.Decoder", "params": VAE},
        )
    )


def renamed(tensors: Tensors, prefix: str = "", **endings: str) -> Tensors:
    """The tensors behind a prefix, their names' endings replaced."""
    found = {}
    for name, value in tensors.items():
        for old, new in endings.items():
            name = name.removesuffix(f"{old}.weight") + f"{old}.{new}" if name.endswith(f"{old}.weight") else name
        found[prefix + name] = value
    return found


def original_flux(prefix: str = "", guidance: bool = False) -> Tensors:
    return renamed(flux_tensors(guidance), prefix, query_norm="scale", key_norm="scale")


def as_gguf(path: Path, tensors: Tensors, architecture: str) -> Path:
    """Vectors in F32, matrices in F16, as converters write them."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in tensors.items():
        writer.add_tensor(name, value.numpy() if value.ndim < 2 else value.half().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_safetensors(path: Path, tensors: Tensors) -> Path:
    save_file(tensors, path)
    return path


def same(weights: WeightSet, tensors: Tensors, rtol: float = 0) -> None:
    """Assert that a set holds exactly these tensors."""
    assert weights.parameters.keys() == tensors.keys()
    weights.require({name: tuple(value.shape) for name, value in tensors.items()})
    for name, parameter in weights.parameters.items():
        np.testing.assert_allclose(read_parameter(parameter), tensors[name].numpy(), rtol=rtol, atol=rtol * 1e-3)


def test_t5_in_hugging_faces_names(tmp_path: Path) -> None:
    tensors = t5_tensors()
    alias = tensors | {
        "encoder.embed_tokens.weight": tensors["shared.weight"].clone(),
        "lm_head.weight": torch.ones(3, 4),
    }
    same(t5(read_header(as_safetensors(tmp_path / "a.safetensors", alias))), tensors)
    del alias["shared.weight"]
    same(t5(read_header(as_safetensors(tmp_path / "b.safetensors", alias))), tensors)
    same(t5(read_header(as_gguf(tmp_path / "c.gguf", tensors, "t5"))), tensors, rtol=1e-3)


def test_t5_in_llama_cpps_names(tmp_path: Path) -> None:
    tensors = t5_tensors()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5ENCODER, T5["num_layers"])
    llama = {str(names.get_name(name, (".weight",))): value for name, value in tensors.items()}
    assert "enc.blk.2.ffn_gate.weight" in llama
    path = as_gguf(tmp_path / "t5.gguf", llama | {"dec.blk.0.attn_q.weight": torch.ones(4, 4)}, "t5encoder")
    weights = t5(read_header(path))
    same(weights, tensors, rtol=1e-3)
    bias = weights.parameters["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    assert bias.shape == (32, 4)  # [buckets, heads]


def test_t5_without_gates_and_with_a_bias_in_each_block(tmp_path: Path) -> None:
    for changes in ({"is_gated_act": False, "dense_act_fn": "relu"}, {"model_type": "umt5"}):
        tensors = t5_tensors(**changes)
        same(t5(read_header(as_safetensors(tmp_path / f"{len(changes)}.safetensors", tensors))), tensors)


@pytest.mark.parametrize("prefix", ["", "text_encoders.clip_l.transformer.", "cond_stage_model.transformer."])
def test_clip_l(tmp_path: Path, prefix: str) -> None:
    tensors = clip_tensors()
    whole = renamed(tensors, prefix) | {
        f"{prefix}text_model.embeddings.position_ids": torch.arange(77)[None],
        "logit_scale": torch.tensor(4.6),
    }
    same(clip_l(read_header(as_safetensors(tmp_path / "clip.safetensors", whole))), tensors)
    del whole[f"{prefix}text_projection.weight"], tensors["text_projection.weight"]
    same(clip_l(read_header(as_safetensors(tmp_path / "clip2.safetensors", whole))), tensors)


def test_a_checkpoint_holds_them_all(tmp_path: Path) -> None:
    whole = {
        **original_flux("model.diffusion_model."),
        **renamed(t5_tensors(), "text_encoders.t5xxl.transformer."),
        **renamed(clip_tensors(), "text_encoders.clip_l.transformer."),
        **renamed(vae_tensors(), "vae."),
    }
    header = read_header(as_safetensors(tmp_path / "all.safetensors", whole))
    assert [kind.key for kind in identify(header)] == ["flux", "t5", "clip_l", "vae"]
    same(t5(header), t5_tensors())
    same(clip_l(header), clip_tensors())


def test_clip_l_beside_clip_g(tmp_path: Path) -> None:
    whole = renamed(clip_tensors(num_hidden_layers=32), "clip_g.") | renamed(clip_tensors(), "text_encoders.clip_l.")
    same(clip_l(read_header(as_safetensors(tmp_path / "both.safetensors", whole))), clip_tensors())


@pytest.mark.parametrize("names", [("scale_weight", "scale_input"), ("weight_scale", "input_scale")])
@pytest.mark.parametrize("scale_shape", [(), (1,)])
def test_scaled_fp8(tmp_path: Path, names: tuple[str, str], scale_shape: tuple[int, ...]) -> None:
    expected, stored = t5_tensors(), {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}
    for number, (name, value) in enumerate(expected.items()):
        stored[name] = value
        if ".DenseReluDense." in name:
            layer, scale = name.removesuffix(".weight"), 0.01 * (number + 1)
            stored[name] = (value / scale).to(torch.float8_e4m3fn)
            stored[f"{layer}.{names[0]}"] = torch.full(scale_shape, scale)
            stored[f"{layer}.{names[1]}"] = torch.ones(())
            stored[f"{layer}.comfy_quant"] = torch.frombuffer(
                bytearray(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8
            )
            expected[name] = stored[name].float() * torch.tensor(scale, dtype=torch.float32)
    weights = t5(read_header(as_safetensors(tmp_path / "scaled.safetensors", stored)))
    same(weights, expected)
    held = weights.parameters["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    assert (held.stored, held.type) == ("F8_E4M3", "F16")
    assert held.runs[0].scale != 1.0


@pytest.mark.parametrize(
    ("scale", "says"),
    [
        (torch.ones(96, 2, dtype=torch.uint8), r"wi_0.weight is F32 with scales of shape \[96, 2\]"),
        (torch.ones(96), r"wi_0.weight is F32 with scales of shape \[96\]"),
        (torch.tensor(torch.nan), "wi_0.weight_scale is nan"),
        (torch.tensor(1), "wi_0.weight_scale is stored as I64"),
    ],
)
def test_scales_of_other_forms(tmp_path: Path, scale: torch.Tensor, says: str) -> None:
    layer = "encoder.block.0.layer.1.DenseReluDense.wi_0"
    path = as_safetensors(tmp_path / "scaled.safetensors", t5_tensors() | {f"{layer}.weight_scale": scale})
    with pytest.raises(WeightFileError, match=says):
        t5(read_header(path))


@pytest.mark.parametrize(
    ("naming", "tensors", "missing"),
    [
        (t5, t5_tensors, "encoder.block.1.layer.1.DenseReluDense.wi_1.weight"),
        (t5, t5_tensors, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        (t5, t5_tensors, "shared.weight"),
        (clip_l, clip_tensors, "text_model.encoder.layers.1.self_attn.out_proj.bias"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path: Path, naming: Any, tensors: Callable[[], Tensors], missing: str) -> None:
    held = tensors()
    del held[missing]
    with pytest.raises(WeightFileError, match=f"lacks {missing}"):
        naming(read_header(as_safetensors(tmp_path / "model.safetensors", held)))


FOREIGN: dict[str, tuple[str, Callable[[], Tensors] | str]] = {
    "flux": ("a FLUX.1 diffusion model", original_flux),
    "t5": ("a T5 text encoder", t5_tensors),
    "t5 of llama.cpp": ("a T5 text encoder", "enc.blk.0.attn_q.weight"),
    "clip_l": ("a CLIP-L text encoder", clip_tensors),
    "clip_g": ("a CLIP-G text encoder", lambda: clip_tensors(num_hidden_layers=32)),
    "clip_h": ("a CLIP-H text encoder", lambda: clip_tensors(num_hidden_layers=24)),
    "vae": ("a VAE", vae_tensors),
    "lora": ("a LoRA", "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"),
    "lora of diffusers": ("a LoRA", "transformer.transformer_blocks.0.attn.to_q.lora_A.weight"),
    "controlnet": ("a ControlNet", lambda: original_flux() | {"controlnet_blocks.0.weight": torch.ones(4, 4)}),
    "diffusers": ("in diffusers' layout", "single_transformer_blocks.0.attn.to_q.weight"),
    "flux2": ("a FLUX.2", lambda: original_flux() | {"double_stream_modulation_img.lin.weight": torch.ones(4, 4)}),
    "chroma": ("a Chroma", lambda: original_flux() | {"distilled_guidance_layer.in_proj.weight": torch.ones(4, 4)}),
    "sd": ("a Stable Diffusion UNet", "model.diffusion_model.input_blocks.0.0.weight"),
    "sd3": ("a Stable Diffusion 3 model", "model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight"),
    "vae of diffusers": (
        "a VAE in diffusers' layout",
        lambda: vae_tensors() | {"decoder.up_blocks.0.resnets.0.norm1.weight": torch.ones(4)},
    ),
    "flux2 vae": ("a FLUX.2 VAE", lambda: vae_tensors() | {"bn.running_mean": torch.ones(4)}),
    "language": ("a language model", "blk.0.attn_q.weight"),
    "unknown": ("nor any model known here", "a.b"),
}
NAMINGS = {"t5": t5, "clip_l": clip_l}


@pytest.mark.parametrize("foreign", FOREIGN)
def test_another_kind_of_model_is_told_what_it_is(tmp_path: Path, foreign: str) -> None:
    says, tensors = FOREIGN[foreign]
    held = {tensors: torch.ones(4, 4)} if isinstance(tensors, str) else tensors()
    header = read_header(as_safetensors(tmp_path / "model.safetensors", held))
    for key, naming in NAMINGS.items():
        if key == foreign:
            naming(header)
            continue
        with pytest.raises(WeightFileError) as caught:
            naming(header)
        assert says in str(caught.value)
        assert str(caught.value).startswith(header.path)
