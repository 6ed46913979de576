"""Control models: ControlNets, T2I adapters and what encodes pictures for a prompt."""

from __future__ import annotations

from typing import Any

import comfy.cldm.cldm
import comfy.cldm.dit_embedder
import comfy.cldm.mmdit
import comfy.ldm.cascade.controlnet
import comfy.ldm.flux.controlnet
import comfy.ldm.flux.redux
import comfy.ldm.hydit.controlnet
import comfy.ldm.lumina.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.ldm.qwen_image.model
import comfy.ldm.wan.uni3c
import comfy.t2i_adapter.adapter
import torch

from ..model_cases import Inputs
from .case import FACTORY, GELU, FamilyCase

_OPERATIONS = {"operations": FACTORY["operations"]}


def _sd(**config: Any) -> torch.nn.Module:
    config = {
        "image_size": 32, "in_channels": 4, "model_channels": 32, "hint_channels": 3, "num_res_blocks": [1, 1, 1],
        "channel_mult": [1, 2, 4], "num_heads": 4, "use_spatial_transformer": True, "legacy": False, "context_dim": 48,
        "transformer_depth": [1, 1, 0], "transformer_depth_middle": 1, "use_linear_in_transformer": False,
    } | config  # fmt: skip
    return comfy.cldm.cldm.ControlNet(**config, **FACTORY)


def _sdxl(**config: Any) -> torch.nn.Module:
    return _sd(
        num_heads=-1, num_head_channels=16, use_linear_in_transformer=True, num_classes="sequential",
        adm_in_channels=64, transformer_depth=[0, 1, 2], transformer_depth_middle=2, **config,
    )  # fmt: skip


def _union() -> torch.nn.Module:
    """The part that joins the kinds of control has one width."""
    return _sdxl(union_controlnet_num_control_type=6, model_channels=320, channel_mult=[1, 1, 1])


def _flux(**config: Any) -> torch.nn.Module:
    return comfy.ldm.flux.controlnet.ControlNetFlux(
        in_channels=16, out_channels=16, vec_in_dim=32, context_in_dim=48, hidden_size=128, mlp_ratio=4.0, num_heads=1,
        depth=1, depth_single_blocks=1, axes_dim=[16, 56, 56], theta=10000, patch_size=2, qkv_bias=True,
        guidance_embed=True, txt_ids_dims=[], **config, **FACTORY,
    )  # fmt: skip


def _sd3() -> torch.nn.Module:
    return comfy.cldm.mmdit.ControlNet(
        num_blocks=2, control_latent_channels=16, in_channels=16, depth=2, adm_in_channels=32, pos_embed_max_size=24,
        num_patches=576, input_size=None, context_size=48, pos_embed_scaling_factor=None, context_embedder_config={
            "target": "torch.nn.Linear", "params": {"in_features": 48, "out_features": 128}}, **FACTORY,
    )  # fmt: skip


def _sd35() -> torch.nn.Module:
    return comfy.cldm.dit_embedder.ControlNetEmbedder(
        img_size=None, patch_size=2, in_chans=16, num_layers=2, main_model_double=2, double_y_emb=False,
        attention_head_dim=64, num_attention_heads=2, adm_in_channels=32, **FACTORY,
    )  # fmt: skip


def _qwen() -> torch.nn.Module:
    return comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(
        num_layers=2, num_attention_heads=1, joint_attention_dim=48, **FACTORY
    )


class _QwenFun(torch.nn.Module):
    """With the base model, whose first layers it uses."""

    def __init__(self) -> None:
        super().__init__()
        self.base = comfy.ldm.qwen_image.model.QwenImageTransformer2DModel(
            num_layers=0, num_attention_heads=1, joint_attention_dim=48, **FACTORY
        )
        self.control = comfy.ldm.qwen_image.controlnet.QwenImageFunControlNetModel(
            inner_dim=128, num_attention_heads=1, num_control_blocks=2, injection_layers=(0, 12), **FACTORY
        )


def _hydit() -> torch.nn.Module:
    return comfy.ldm.hydit.controlnet.HunYuanControlNet(
        hidden_size=128, depth=4, num_heads=2, text_states_dim=48, text_states_dim_t5=64, text_len=7, text_len_t5=12,
        log_fn=lambda *_: None, **FACTORY,
    )  # fmt: skip


def _hydit_inputs(batch: int, size: int) -> Inputs:
    inputs = _inputs(4, 4, 1)(batch, size) | {"context": torch.randn(batch, 7, 48)}
    inputs["text_embedding_mask"] = torch.ones(batch, 7, dtype=torch.long)
    inputs["encoder_hidden_states_t5"] = torch.randn(batch, 12, 64)
    inputs["text_embedding_mask_t5"] = torch.ones(batch, 12, dtype=torch.long)
    return inputs


def _z_image() -> torch.nn.Module:
    return comfy.ldm.lumina.controlnet.ZImage_Control(
        dim=256, n_heads=2, n_kv_heads=2, multiple_of=32, n_control_layers=2, **FACTORY
    )


def _uni3c() -> torch.nn.Module:
    return comfy.ldm.wan.uni3c.WanUni3CControlnet(
        in_channels=20, conv_out_dim=128, dim=64, ffn_dim=96, num_heads=1, num_layers=2, time_embed_dim=48,
        out_proj_dim=128, mid_channels=32, **FACTORY,
    )  # fmt: skip


def _call(m: Any, t: Inputs, **more: Any) -> Any:
    named = {name: x for name, x in t.items() if name not in ("x", "timesteps")}
    return m(x=t["x"], timesteps=t["timesteps"], **named, **more)


def _call_z_image(m: Any, t: Inputs) -> Any:
    """As ZImageControlPatch does between the layers of the model."""
    context = m(None, t["control"], t["freqs"], t["adaln"])
    states = []
    for layer in range(m.n_control_layers):
        state, context = m.forward_control_block(layer, context, t["x"], None, t["freqs"], t["adaln"])
        states.append(state)
    return states


def _call_uni3c(m: Any, t: Inputs) -> Any:
    hidden, freqs = m.process_input(t["control"], t["mask"])
    states = []
    for block in range(m.num_layers):
        hidden, residual = m.forward_block(block, hidden, t["temb"], freqs)
        states.append(residual)
    return states


def _inputs(channels: int, hint: int, scale: int, y: int = 0, guidance: bool = False) -> Any:
    """scale: of the hint's sides, from latent pixels."""

    def inputs(batch: int, size: int) -> Inputs:
        height, width = 8 + 4 * size, 12
        made = {
            "x": torch.randn(batch, channels, height, width), "timesteps": torch.rand(batch),
            "context": torch.randn(batch, 7 + size, 48), "hint": torch.rand(batch, hint, scale * height, scale * width),
        }  # fmt: skip
        if y:
            made["y"] = torch.randn(batch, y)
        return made | ({"guidance": torch.full((batch,), 3.5)} if guidance else {})

    return inputs


def _qwen_inputs(batch: int, size: int) -> Inputs:
    inputs = _inputs(16, 16, 1)(batch, size)
    return inputs | {"x": inputs["x"][:, :, None], "hint": inputs["hint"][:, :, None]}


def _z_inputs(batch: int, size: int) -> Inputs:
    tokens = 24 + 8 * size
    return {
        "control": torch.randn(batch, 16, 8, 12 + 4 * size), "x": torch.randn(batch, tokens, 256),
        "freqs": torch.randn(batch, tokens, 1, 64, 2, 2), "adaln": torch.randn(batch, 256),
    }  # fmt: skip


def _uni3c_inputs(batch: int, size: int) -> Inputs:
    frames, height, width = 2 + size, 4, 6
    return {
        "control": torch.randn(batch, 20, frames, height, width), "temb": torch.randn(batch, 48),
        "mask": torch.rand(batch, 7, 4 * frames - 3, 8 * height, 8 * width),
    }  # fmt: skip


def _hint(channels: int) -> Any:
    return lambda n, s: {"hint": torch.rand(n, channels, 32 + 16 * s, 48)}


def _adapt(m: Any, t: Inputs) -> Any:
    return m(t["hint"])


def _adapter(**config: Any) -> torch.nn.Module:
    return comfy.t2i_adapter.adapter.Adapter(channels=[16, 32, 64, 64], nums_rb=2, ksize=1, sk=True, **config)


CASES = (
    FamilyCase("ControlNet SD1.5", _sd, _call, _inputs(4, 3, 8)),
    FamilyCase("ControlNet SDXL", _sdxl, _call, _inputs(4, 3, 8, 64)),
    FamilyCase("ControlNet SDXL union", _union,
               lambda m, t: _call(m, t, control_type=[1]), _inputs(4, 3, 8, 64)),
    FamilyCase("ControlNet Flux InstantX", lambda: _flux(latent_input=True, control_latent_channels=16), _call,
               _inputs(16, 16, 1, 32, True), GELU),
    FamilyCase("ControlNet Flux union", lambda: _flux(
        latent_input=True, num_union_modes=4, control_latent_channels=16),
        lambda m, t: _call(m, t, control_type=[1]), _inputs(16, 16, 1, 32, True), GELU),
    FamilyCase("ControlNet Flux XLabs (pixel hint)", _flux, _call, _inputs(16, 3, 8, 32, True), GELU),
    FamilyCase("ControlNet SD3", _sd3, _call, _inputs(16, 16, 1, 32), GELU),
    FamilyCase("ControlNet SD3.5 large", _sd35, _call, _inputs(16, 16, 1, 32), GELU),
    FamilyCase("ControlNet Qwen-Image", _qwen, _call, _qwen_inputs, GELU),
    FamilyCase("ControlNet Qwen-Image Fun", _QwenFun,
               lambda m, t: _call(m.control, t, base_model=m.base), _qwen_inputs, GELU),
    FamilyCase("ControlNet HunyuanDiT", _hydit, _call, _hydit_inputs, GELU),
    FamilyCase("ControlNet Cascade", lambda: comfy.ldm.cascade.controlnet.ControlNet(
        c_in=16, c_proj=32, proj_blocks=[0, 2], bottleneck_mode="simple", **_OPERATIONS), _adapt,
        lambda n, s: {"hint": torch.rand(n, 16, 6 + 2 * s, 8)}),
    FamilyCase("Z-Image control", _z_image, _call_z_image, _z_inputs),
    FamilyCase("Wan Uni3C", _uni3c, _call_uni3c, _uni3c_inputs, GELU),
    FamilyCase("T2I adapter SD1.5", lambda: _adapter(cin=64 * 3, use_conv=False, xl=False), _adapt, _hint(3)),
    FamilyCase("T2I adapter SDXL", lambda: _adapter(cin=256 * 3, use_conv=False, xl=True), _adapt, _hint(3)),
    FamilyCase("T2I adapter light", lambda: comfy.t2i_adapter.adapter.Adapter_light(
        channels=[16, 32, 64, 64], nums_rb=2, cin=64 * 3), _adapt, _hint(3)),
    FamilyCase("T2I style adapter", lambda: comfy.t2i_adapter.adapter.StyleAdapter(
        width=64, context_dim=48, num_head=2, n_layes=2, num_token=4), lambda m, t: m(t["clip"]),
        lambda n, s: {"clip": torch.randn(n, 17 + s, 64)}),
    FamilyCase("Flux Redux", lambda: comfy.ldm.flux.redux.ReduxImageEncoder(64, 48), lambda m, t: m(t["clip"]),
               lambda n, s: {"clip": torch.randn(n, 17 + s, 64)}),
)  # fmt: skip
