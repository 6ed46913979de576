"""Models that estimate geometry, draw frames or find motion, of core's own classes, as small files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from tests import pack

pack.comfy()

import comfy.ops  # noqa: E402
from comfy.ldm.depth_anything_3.model import DepthAnything3Net  # noqa: E402
from comfy.ldm.moge.model import MoGeModelV1, MoGeModelV2  # noqa: E402
from comfy_extras.frame_interpolation_models.film_net import FILMNet  # noqa: E402
from comfy_extras.frame_interpolation_models.ifnet import IFNet  # noqa: E402
from torchvision.models.optical_flow import raft_large  # noqa: E402

from .core_model_kinds import PLAIN, CoreKind, Tensors, of  # noqa: E402

BACKBONE: Mapping[str, Any] = {
    "hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 4, "layer_norm_eps": 1e-6,
    "use_swiglu_ffn": False,
}  # fmt: skip
WIDTHS = (64, 16, 16, 8, 8)
FILM = {"filters": 8, "flow_filters": (8, 8, 16, 16)}
# What of DINOv2's names ComfyUI's begin, is or end with, and what MoGe's files have for it.
_TOP = {
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.", "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed", "embeddings.mask_token": "mask_token", "layernorm.": "norm.",
    "encoder.layer.": "blocks.",
}  # fmt: skip
_IN_BLOCK = {
    "layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma", "attention.output.dense.": "attn.proj.",
}  # fmt: skip
_DEPTH_LAST = "head.scratch.output_conv2.2."
_QUERY, _OTHERS = ".attention.attention.query.", ("key", "value")


def moge_v2(backbone: Mapping[str, Any] = BACKBONE, widths: tuple[int, ...] = WIDTHS, **factory: Any) -> MoGeModelV2:
    """A MoGe 2 with normals. widths: of its stacks of convolutions, level by level."""
    depth, first = backbone["num_hidden_layers"], widths[0]

    def stack(given: tuple[int, ...], blocks: tuple[int, ...], made: int | None = None) -> dict[str, Any]:
        return {
            "dim_in": given, "dim_res_blocks": widths, "dim_out": [None] * 4 + [made], "num_res_blocks": blocks,
            "resamplers": ["conv_transpose"] * 3 + ["bilinear"], "res_block_in_norm": "none",
            "res_block_hidden_norm": "none",
        }  # fmt: skip

    return MoGeModelV2(
        encoder={
            "backbone": backbone, "dim_out": first, "intermediate_layers": [depth // 4 * n - 1 for n in range(1, 5)],
        },
        neck=stack((first + 2, 2, 2, 2, 2), (0, 2, 2, 2, 0)),
        scale_head={"dims": [backbone["hidden_size"], first, first, 1]},
        **{f"{name}_head": stack(widths, (0, 1, 1, 1, 0), made) for name, made in (("points", 3), ("mask", 1),
                                                                                   ("normal", 3))},
        **(factory or PLAIN),
    )  # fmt: skip


def moge_names(tensors: Tensors, prefix: str) -> Tensors:
    """As MoGe's files have them: DINOv2's names, and queries, keys and values in one."""
    found: Tensors = {}
    for name, x in tensors.items():
        if not name.startswith(prefix):
            found[name] = x
            continue
        rest = name.removeprefix(prefix)
        if _QUERY in rest:
            parts = [x, *(tensors[name.replace("query", other)] for other in _OTHERS)]
            rest, x = rest.replace(_QUERY, ".attn.qkv."), torch.cat(parts)
        elif any(_QUERY.replace("query", other) in rest for other in _OTHERS):
            continue
        for ours, theirs in (_TOP | _IN_BLOCK).items():
            rest = rest.replace(ours, theirs)
        found[prefix + rest] = x
    return found


def flat(tensors: Tensors, last: str) -> Tensors:
    """With a last layer that makes small numbers, as depth is their exponential."""
    return {name: x / 256 if name.startswith(last) else x for name, x in tensors.items()}


def moge_v1() -> Tensors:
    """Of a MoGe 1, in ComfyUI's names."""
    return flat(of(MoGeModelV1(dict(BACKBONE), [32, 16, 16], **PLAIN)), "head.output_block.0.2.")


def depth_mono() -> Tensors:
    """Of a Depth Anything 3 for one picture, which sees the sky."""
    module = DepthAnything3Net(
        backbone_name="vits", head_dim_in=384, head_features=32, head_out_channels=(16, 32, 48, 64), **PLAIN
    )
    return flat(of(module), _DEPTH_LAST)


def depth_views() -> Tensors:
    """Of a Depth Anything 3 for several views of a scene, which finds the cameras."""
    module = DepthAnything3Net(
        backbone_name="vits", alt_start=4, qknorm_start=4, rope_start=4, cat_token=True, head_type="dualdpt",
        head_dim_in=768, head_output_dim=2, head_features=32, head_out_channels=(16, 32, 48, 64), has_cam_enc=True,
        has_cam_dec=True, **PLAIN,
    )  # fmt: skip
    return flat(of(module), _DEPTH_LAST)


def rife() -> Tensors:
    """Of a RIFE, in the names of its authors."""
    held = of(IFNet(channels=(32, 24, 16, 16, 16), operations=comfy.ops.disable_weight_init))
    return {f"module.{name.replace('blocks.', 'block')}": x for name, x in held.items()}


def raft() -> Tensors:
    """Of a RAFT, whose norms have statistics of their own."""
    source = torch.Generator().manual_seed(6)
    held = of(raft_large(weights=None))
    return {name: torch.rand(x.shape, generator=source) + 0.5 if ".running_" in name else x for name, x in held.items()}


_MOGE = partial(
    CoreKind, ours="moge:GGMLMoGeModel", core="comfy_extras.nodes_moge:LoadMoGeModel", file="model_name",
    folder="geometry_estimation",
)  # fmt: skip
_DEPTH = partial(
    CoreKind, ours="depth_anything:GGMLDepthAnything3", core="comfy_extras.nodes_depth_anything_3:LoadDA3Model",
    file="model_name", folder="geometry_estimation", more=("fp32",),
)  # fmt: skip
_FRAMES = partial(
    CoreKind, ours="frame_interpolation:GGMLFrameInterpolation",
    core="comfy_extras.nodes_frame_interpolation:FrameInterpolationModelLoader", file="model_name",
    folder="frame_interpolation",
)  # fmt: skip

MOGE = (
    _MOGE("MoGe 1", tensors=moge_v1),
    _MOGE(
        "MoGe 2",
        tensors=lambda: flat(moge_names(of(moge_v2()), "encoder.backbone."), "points_head.output_blocks.4."),
    ),
)
DEPTH = _DEPTH("Depth Anything 3 Mono", tensors=depth_mono)
VIEWS = _DEPTH("Depth Anything 3 Small", tensors=depth_views)
FRAMES = (
    _FRAMES(
        "FILM", tensors=lambda: of(FILMNet(**FILM)), narrow={"comfy_extras.nodes_frame_interpolation:FILMNet": FILM}
    ),
    _FRAMES("RIFE", tensors=rife),
)
MOTION = CoreKind(
    "RAFT", ours="optical_flow:GGMLOpticalFlow", core="comfy_extras.nodes_void:OpticalFlowLoader", file="model_name",
    folder="optical_flow", tensors=raft,
)  # fmt: skip
