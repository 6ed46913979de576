"""Whole checkpoints, as small as core still detects them, in the names of the files that people have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests import pack, random_models

pack.comfy()

import comfy.clip_model  # noqa: E402
import comfy.ops  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL  # noqa: E402
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402
from comfy.taesd.taesd import TAESD  # noqa: E402

from .parity.model_cases import randomize  # noqa: E402

Tensors = dict[str, torch.Tensor]
# What core makes of the text encoders below, as `te_model_options`; it reads no sizes out of a CLIP.
LAYERS, INNER = 3, 64
CLIP_SIZES = {"num_hidden_layers": LAYERS, "intermediate_size": INNER}
SIZES = {f"clip_{name}_model_config": CLIP_SIZES for name in "lgh"}
FLUX_SIZES = {"clip_l_model_config": random_models.CLIP, "t5xxl_model_config": random_models.T5}
AUTOENCODER = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "use_spatial_transformer": True,
    "legacy": False, "dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init,
}  # fmt: skip


def unet(empty: bool = False, **config: Any) -> Tensors:
    """A U-Net of Stable Diffusion's kind; empty: without values."""
    module = UNetModel(**UNET | {"device": "meta"} if empty else UNET, **config)
    return (module if empty else randomize(module)).state_dict()


def clip(width: int, heads: int, inner: int = INNER, layers: int = LAYERS) -> Tensors:
    """A text encoder of CLIP's kind, with a projection; without values where it is of the real size."""
    config = json.loads((Path(comfy.ops.__file__).parent / "sd1_clip_config.json").read_text())
    config |= {
        "hidden_size": width, "num_attention_heads": heads, "projection_dim": width, "intermediate_size": inner,
        "num_hidden_layers": layers,
    }  # fmt: skip
    empty = layers != LAYERS
    device = "meta" if empty else "cpu"
    module = comfy.clip_model.CLIPTextModel(config, torch.float32, device, comfy.ops.disable_weight_init)
    return (module if empty else randomize(module)).state_dict()


def open_clip(tensors: Tensors, layers: int = LAYERS) -> Tensors:
    """A CLIP in the names of open_clip: queries, keys and values in one tensor, the projection transposed."""
    return dict(_open_clip(tensors, range(layers)))


def _open_clip(tensors: Tensors, layers: range) -> Iterator[tuple[str, torch.Tensor]]:
    body = "text_model."
    yield "positional_embedding", tensors[f"{body}embeddings.position_embedding.weight"]
    yield "token_embedding.weight", tensors[f"{body}embeddings.token_embedding.weight"]
    yield "text_projection", tensors["text_projection.weight"].T.contiguous()
    for end in ("weight", "bias"):
        yield f"ln_final.{end}", tensors[f"{body}final_layer_norm.{end}"]
        for layer, (theirs, ours) in ((layer, pair) for layer in layers for pair in _OPEN_CLIP):
            name = f"{body}encoder.layers.{layer}.{ours}.{end}"
            yield f"transformer.resblocks.{layer}.{theirs}.{end}", tensors[name]
        for layer in layers:
            parts = [tensors[f"{body}encoder.layers.{layer}.self_attn.{part}_proj.{end}"] for part in "qkv"]
            yield f"transformer.resblocks.{layer}.attn.in_proj_{end}", torch.cat(parts)


_OPEN_CLIP = (
    ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
    ("attn.out_proj", "self_attn.out_proj"),
)  # fmt: skip


def behind(prefix: str, tensors: Tensors) -> Tensors:
    """Names behind a prefix."""
    return {prefix + name: value for name, value in tensors.items()}


def sd15() -> Tensors:
    """SD1.5, with an autoencoder of the usual size: core reads no other out of a file."""
    model = unet(
        num_res_blocks=[1, 1], channel_mult=[1, 1], num_heads=8, context_dim=768, transformer_depth=[1, 0],
        transformer_depth_middle=1, transformer_depth_output=[1, 1, 0, 0],
    )  # fmt: skip
    return {
        **behind("model.diffusion_model.", model),
        **behind("cond_stage_model.transformer.", without_projection(clip(768, 12))),
        **behind("first_stage_model.", randomize(AutoencoderKL(embed_dim=4, ddconfig=AUTOENCODER)).state_dict()),
    }


def sd21() -> Tensors:
    """SD2.1, which core takes for a v-prediction model because of the values of one tensor."""
    model = unet(
        num_res_blocks=[3, 3, 3], channel_mult=[1, 1, 1], num_head_channels=64, context_dim=1024,
        use_linear_in_transformer=True, transformer_depth=[1] + 8 * [0], transformer_depth_middle=-1,
        transformer_depth_output=[1] + 11 * [0],
    )  # fmt: skip
    model["output_blocks.11.1.transformer_blocks.0.norm1.bias"] *= 3
    return {
        **behind("model.diffusion_model.", model),
        **behind("cond_stage_model.model.", open_clip(clip(1024, 16))),
        **behind("first_stage_model.", taesd(4)),
    }


def sdxl() -> Tensors:
    """SDXL's kind."""
    return {
        **behind("model.diffusion_model.", koala()),
        **behind("conditioner.embedders.0.transformer.", without_projection(clip(768, 12))),
        **behind("conditioner.embedders.1.model.", open_clip(clip(1280, 20))),
        **behind("first_stage_model.", taesd(4)),
    }


def koala(empty: bool = False) -> Tensors:
    """KOALA 700M, the smallest U-Net of those that core takes for SDXL's; empty: without values."""
    return unet(
        empty,
        num_res_blocks=[1, 1, 1], channel_mult=[1, 1, 1], num_head_channels=64, context_dim=2048,
        use_linear_in_transformer=True, num_classes="sequential", adm_in_channels=2816, transformer_depth=[0, 2, 5],
        transformer_depth_middle=-1, transformer_depth_output=[0, 0, 1, 0, 0, 0],
    )  # fmt: skip


def sd3() -> Tensors:
    """SD3 with one of its three text encoders."""
    context = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}}
    model = OpenAISignatureMMDITWrapper(
        in_channels=16, depth=2, num_blocks=2, adm_in_channels=2048, pos_embed_max_size=24, num_patches=576,
        input_size=None, context_size=4096, pos_embed_scaling_factor=None, context_embedder_config=context,
        dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    return {
        **behind("model.diffusion_model.", randomize(model).state_dict()),
        **behind("text_encoders.clip_l.transformer.", clip(768, 12)),
        **behind("first_stage_model.", taesd(16)),
    }


def flux() -> Tensors:
    """FLUX.1 schnell with all its parts."""
    return {
        **behind("model.diffusion_model.", random_models.flux()),
        **behind("text_encoders.clip_l.transformer.", random_models.clip_l()),
        **behind("text_encoders.t5xxl.transformer.", random_models.t5()),
        **behind("vae.", taesd(16)),
    }


def without_projection(tensors: Tensors) -> Tensors:
    """A CLIP-L as it is in checkpoints."""
    return {name: value for name, value in tensors.items() if name != "text_projection.weight"}


def taesd(channels: int) -> Tensors:
    """The small autoencoder of previews, which may stand in a VAE's place."""
    return randomize(TAESD(latent_channels=channels)).state_dict()


def sdxl_base() -> Tensors:
    """SDXL base 1.0 at its real size, without values."""
    with torch.device("meta"):
        autoencoder = AutoencoderKL(embed_dim=4, ddconfig=AUTOENCODER).state_dict()
    model = unet(
        empty=True, num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4], num_head_channels=64, context_dim=2048,
        use_linear_in_transformer=True, num_classes="sequential", adm_in_channels=2816,
        transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_middle=10,
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
    )  # fmt: skip
    return {
        **behind("model.diffusion_model.", model),
        **behind("conditioner.embedders.0.transformer.", without_projection(clip(768, 12, 3072, 12))),
        **behind("conditioner.embedders.1.model.", open_clip(clip(1280, 20, 5120, 32), 32)),
        **behind("first_stage_model.", autoencoder),
    }
