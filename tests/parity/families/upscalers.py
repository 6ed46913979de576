"""Upscalers of pictures (spandrel), detectors, depth and background removal."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import comfy.background_removal.birefnet
import comfy.ldm.depth_anything_3.model
import comfy.ldm.rt_detr.rtdetr_v4
import comfy.ldm.sam3.detector
import torch
from comfy.ldm.modules.attention import attention_pytorch
from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact
from spandrel.architectures.DAT.__arch.DAT import DAT
from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet
from spandrel.architectures.HAT.__arch.HAT import HAT
from spandrel.architectures.OmniSR.__arch.OmniSR import OmniSR
from spandrel.architectures.PLKSR.__arch.PLKSR import PLKSR
from spandrel.architectures.SPAN.__arch.span import SPAN
from spandrel.architectures.SwinIR.__arch.SwinIR import SwinIR
from torchvision.models.optical_flow import raft_large

from tests.narrow import beside

from ..model_cases import Inputs
from .case import FACTORY, GELU, FamilyCase, narrow


def _call(m: Any, t: dict[str, torch.Tensor]) -> Any:
    return m(t["x"])


def _pixels(side: int = 16, step: int = 8) -> Any:
    return lambda n, s: {"x": torch.rand(n, 3, side + step * s, side)}


def _swin() -> torch.nn.Module:
    return SwinIR(
        img_size=16, embed_dim=24, depths=[2, 2], num_heads=[2, 2], window_size=8, mlp_ratio=2.0, upscale=2,
        upsampler="pixelshuffle",
    )  # fmt: skip


def _hat() -> torch.nn.Module:
    return HAT(img_size=16, embed_dim=24, depths=(2,), num_heads=(2,), window_size=8, squeeze_factor=6, upscale=2)


def _dat() -> torch.nn.Module:
    return DAT(img_size=16, embed_dim=24, split_size=[8, 16], depth=[2], num_heads=[2], expansion_factor=2.0, upscale=2)


def _birefnet() -> torch.nn.Module:
    """As BiRefNet.__init__ does, with an eighth of its widths and a part of its depth."""
    birefnet = comfy.background_removal.birefnet
    model = birefnet.BiRefNet.__new__(birefnet.BiRefNet)
    torch.nn.Module.__init__(model)
    model.bb = birefnet.SwinTransformer(
        embed_dim=24, depths=[2, 2, 2, 2], num_heads=[2, 2, 4, 4], window_size=4, **FACTORY
    )
    channels = [384, 192, 96, 48]
    model.cxt = channels[1:][::-1][-3:]
    block = birefnet.BasicDecBlk(channels[0] + sum(model.cxt), channels[0], **FACTORY)
    model.squeeze_module = torch.nn.Sequential(block)
    model.decoder = birefnet.Decoder(channels, **FACTORY)
    return model


def _depth() -> torch.nn.Module:
    return comfy.ldm.depth_anything_3.model.DepthAnything3Net(
        backbone_name="vits", out_layers=(5, 7, 9, 11), head_dim_in=384, head_features=32,
        head_out_channels=(16, 32, 48, 64), **FACTORY,
    )  # fmt: skip


def _rt_detr() -> torch.nn.Module:
    """Its tables of positions are those of one size of picture."""
    rtdetr = comfy.ldm.rt_detr.rtdetr_v4
    size = {"eval_spatial_size": (128, 128)}
    with narrow(rtdetr, HybridEncoder=size, DFINETransformer=size):
        return rtdetr.RTv4(num_queries=20, enc_h=128, dec_h=128, enc_ff=128, dec_ff=128, **FACTORY)


def _sam3() -> torch.nn.Module:
    return beside("comfy.ldm.sam3.detector:SAM3Model")(image_model="SAM31", **FACTORY)


def _text_and_picture(batch: int, size: int) -> Inputs:
    mask = torch.ones(batch, 7 + size, dtype=torch.long)
    mask[:, 5:] = 0
    return {"x": torch.rand(batch, 3, 96, 96), "text": torch.randn(batch, 7 + size, 1024), "mask": mask}


def _found(m: Any, t: Inputs) -> Any:
    """With the attention that core has on a GPU: its other one adds a mask of truth values to the scores as ones."""
    with patch.object(comfy.ldm.sam3.detector, "optimized_attention", attention_pytorch):
        found = m(t["x"], text_embeddings=t["text"], text_mask=t["mask"], orig_size=(60, 50))
    return found["boxes"], found["scores"], found["masks"]


CASES = (
    FamilyCase("upscaler ESRGAN (spandrel)", lambda: RRDBNet(num_filters=16, num_blocks=1, scale=4), _call, _pixels()),
    FamilyCase("upscaler Compact (spandrel)", lambda: SRVGGNetCompact(num_feat=16, num_conv=2, upscale=2), _call,
               _pixels()),
    FamilyCase("upscaler SPAN (spandrel)", lambda: SPAN(
        num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2, norm=True), _call, _pixels(),
        3e-4),  # torch's own F32 is 1e-4 from its F64
    FamilyCase("upscaler PLKSR (spandrel)", lambda: PLKSR(dim=16, n_blocks=2, upscaling_factor=2), _call, _pixels(32)),
    FamilyCase("upscaler OmniSR (spandrel)", lambda: OmniSR(
        num_feat=16, res_num=1, up_scale=2, window_size=8), _call, _pixels(), GELU),
    FamilyCase("upscaler SwinIR (spandrel)", _swin, _call, _pixels(), GELU),
    FamilyCase("upscaler HAT (spandrel)", _hat, _call, _pixels(), GELU),
    FamilyCase("upscaler DAT (spandrel)", _dat, _call, _pixels(32, 16), GELU),
    FamilyCase("RT-DETR v4", _rt_detr, lambda m, t: m._forward(t["x"]), _pixels(128, 0), GELU),
    FamilyCase("SAM3.1 (words)", _sam3, _found, _text_and_picture, GELU),
    FamilyCase("SAM3.1 (a mask refined)", _sam3, lambda m, t: m.forward_segment(t["x"], mask_inputs=t["mask"]),
               lambda n, s: {"x": torch.rand(n, 3, 96, 96), "mask": torch.randn(n, 1, 96, 96 + 16 * s)}, GELU),
    FamilyCase("Depth Anything 3 (vits)", _depth, _call, _pixels(56, 14), GELU),
    FamilyCase("RAFT large (optical flow)", lambda: raft_large(weights=None).eval(),
               lambda m, t: m(t["x"], t["y"], num_flow_updates=2),
               lambda n, s: {name: torch.rand(n, 3, 128 + 16 * s, 128) for name in ("x", "y")}),
    FamilyCase("BiRefNet (background removal)", _birefnet, _call, _pixels(64, 64), GELU),
)  # fmt: skip
