"""Diffusion models at their real size, on the meta device, and what they are called with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from native.ggml_types import LAYOUTS
from native.lower import WeightType
from tests import pack

pack.comfy()

import comfy.ldm.flux.model  # noqa: E402
import comfy.ldm.lightricks.av_model  # noqa: E402
import comfy.ldm.lumina.model  # noqa: E402
import comfy.ldm.modules.diffusionmodules.mmdit  # noqa: E402
import comfy.ldm.qwen_image.model  # noqa: E402
import comfy.ldm.wan.model  # noqa: E402
import comfy.ops  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

Inputs = dict[str, torch.Tensor]
_FACTORY = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}


@dataclass(frozen=True)
class RealModel:
    """build makes the module; inputs: what `function` calls it with for `size`, its usual one.

    pooled: channels of pooled text. config: that the metadata of its file have.
    """

    size: str
    build: Callable[[], torch.nn.Module]
    function: Callable[[Any, Inputs], Any]
    inputs: Callable[[], Inputs]
    pooled: int = 768
    config: Mapping[str, Any] | None = None


def types(module: torch.nn.Module) -> dict[str, WeightType]:
    """As files in Q8_0 have them: matrices in Q8_0, kernels and matrices of odd rows in F16, vectors in F32."""
    block = LAYOUTS["Q8_0"].block
    found = {}
    for name, tensor in module.state_dict().items():
        matrix = tensor.ndim == 2 and tensor.shape[1] % block == 0
        kind = "F32" if tensor.ndim < 2 else "Q8_0" if matrix else "F16"
        found[name] = WeightType(kind, tuple(tensor.shape))
    return found


def _unet(**config: Any) -> torch.nn.Module:
    """SD1.5 or SDXL, as comfy.model_detection.unet_config_from_diffusers_unet lists them."""
    return UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=320, use_spatial_transformer=True, legacy=False,
        **config, **_FACTORY,
    )  # fmt: skip


def _sd15() -> torch.nn.Module:
    return _unet(
        num_res_blocks=[2, 2, 2, 2], channel_mult=[1, 2, 4, 4], transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1, transformer_depth_output=[1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], context_dim=768,
        num_heads=8,
    )  # fmt: skip


def _sdxl() -> torch.nn.Module:
    return _unet(
        num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4], transformer_depth=[0, 0, 2, 2, 10, 10],
        transformer_depth_middle=10, transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], context_dim=2048,
        use_linear_in_transformer=True, num_heads=-1, num_head_channels=64, num_classes="sequential",
        adm_in_channels=2816,
    )  # fmt: skip


def _z_image() -> torch.nn.Module:
    return comfy.ldm.lumina.model.NextDiT(
        patch_size=2, in_channels=16, dim=3840, n_layers=30, n_refiner_layers=2, n_heads=30, n_kv_heads=30,
        multiple_of=256, qk_norm=True, cap_feat_dim=2560, axes_dims=[32, 48, 48], axes_lens=[1536, 512, 512],
        rope_theta=256.0, ffn_dim_multiplier=8 / 3, z_image_modulation=True, time_scale=1000.0,
        pad_tokens_multiple=32, **_FACTORY,
    )  # fmt: skip


def _qwen_image() -> torch.nn.Module:
    return comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(**_FACTORY)


def _flux_1() -> torch.nn.Module:
    return comfy.ldm.flux.model.Flux(
        in_channels=16, out_channels=16, vec_in_dim=768, context_in_dim=4096, hidden_size=3072, mlp_ratio=4.0,
        num_heads=24, depth=19, depth_single_blocks=38, axes_dim=[16, 56, 56], theta=10_000, patch_size=2,
        qkv_bias=True, guidance_embed=False, txt_ids_dims=[], **_FACTORY,
    )  # fmt: skip


def _sd35_medium() -> torch.nn.Module:
    return comfy.ldm.modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper(
        patch_size=2, in_channels=16, depth=24, pos_embed_max_size=384, num_patches=384**2, adm_in_channels=2048,
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
        qk_norm="rms", x_block_self_attn_layers=list(range(13)), input_size=None, **_FACTORY,
    )  # fmt: skip


def _klein_9b() -> torch.nn.Module:
    return comfy.ldm.flux.model.Flux(
        in_channels=128, out_channels=128, vec_in_dim=None, context_in_dim=12288, hidden_size=4096, mlp_ratio=3.0,
        num_heads=32, depth=8, depth_single_blocks=24, axes_dim=[32, 32, 32, 32], theta=2000, patch_size=1,
        qkv_bias=False, guidance_embed=False, txt_ids_dims=[3], global_modulation=True, mlp_silu_act=True,
        ops_bias=False, default_ref_method="index", ref_index_scale=10.0, **_FACTORY,
    )  # fmt: skip


def _wan_14b() -> torch.nn.Module:
    return comfy.ldm.wan.model.WanModel(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, **_FACTORY)


def _wan_5b() -> torch.nn.Module:
    return comfy.ldm.wan.model.WanModel(
        in_dim=48, out_dim=48, dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, **_FACTORY
    )


def _ltx_2() -> torch.nn.Module:
    return comfy.ldm.lightricks.av_model.LTXAVModel(**_LTX_2, **_FACTORY)


_LTX_2 = {
    "causal_temporal_positioning": True, "use_middle_indices_grid": True, "av_ca_timestep_scale_multiplier": 1000.0,
    "connector_num_layers": 2, "rope_type": "split", "frequencies_precision": "float64",
}  # fmt: skip


def _call(m: Any, t: Inputs, **more: Any) -> Any:
    named = {name: x for name, x in t.items() if name not in ("x", "timestep", "context")}
    return m(t["x"], t["timestep"], context=t["context"], transformer_options={}, **named, **more)


def _call_z_image(m: Any, t: Inputs) -> Any:
    return m(t["x"], t["timestep"], t["context"], num_tokens=t["context"].shape[1], transformer_options={})


def _call_ltx_2(m: Any, t: Inputs) -> Any:
    moments = t["timestep"], t["timestep"]
    return m([t["x"], t["audio"]], moments, t["context"], None, frame_rate=25, transformer_options={})


def _inputs(x: tuple[int, ...], context: tuple[int, int], **more: tuple[int, ...]) -> Inputs:
    """Shapes without the batch, which is 1."""
    shapes = {"x": x, "context": context, **more}
    return {"timestep": torch.ones(1)} | {name: torch.zeros(1, *shape) for name, shape in shapes.items()}


MODELS = {
    "SD1.5": RealModel("512x512", _sd15, _call, lambda: _inputs((4, 64, 64), (77, 768))),
    "SDXL": RealModel("1024x1024", _sdxl, _call, lambda: _inputs((4, 128, 128), (77, 2048), y=(2816,)), 1280),
    "SD3.5 medium": RealModel("1024x1024", _sd35_medium, _call,
                              lambda: _inputs((16, 128, 128), (154, 4096), y=(2048,)), 2048),
    "FLUX.1": RealModel("1024x1024", _flux_1, _call, lambda: _inputs((16, 128, 128), (256, 4096), y=(768,))),
    "Z-Image": RealModel("1024x1024", _z_image, _call_z_image, lambda: _inputs((16, 128, 128), (100, 2560))),
    "Z-Image small": RealModel("512x512", _z_image, _call_z_image, lambda: _inputs((16, 64, 64), (100, 2560))),
    "Qwen-Image": RealModel("1024x1024", _qwen_image, _call, lambda: _inputs((16, 1, 128, 128), (100, 3584))),
    "FLUX.2 Klein 9B": RealModel("1024x1024", _klein_9b, _call, lambda: _inputs((128, 64, 64), (512, 12288))),
    "Wan 2.2 14B": RealModel("832x480, 81 frames", _wan_14b, _call, lambda: _inputs((16, 21, 60, 104), (512, 4096))),
    "Wan 2.2 5B": RealModel("1280x704, 121 frames", _wan_5b, _call, lambda: _inputs((48, 31, 44, 80), (512, 4096))),
    "LTX-2": RealModel("768x512, 97 frames, audio", _ltx_2, _call_ltx_2,
                       lambda: _inputs((128, 13, 16, 24), (1024, 7680), audio=(8, 97, 16)),
                       config={"transformer": _LTX_2}),
}  # fmt: skip
