"""Models that core's loaders of ControlNets, vision models, upscalers and their kin know, as small files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch

from tests import pack

pack.comfy()

import comfy.cldm.cldm  # noqa: E402
import comfy.cldm.dit_embedder  # noqa: E402
import comfy.clip_vision  # noqa: E402
import comfy.ldm.flux.controlnet  # noqa: E402
import comfy.ldm.qwen_image.controlnet  # noqa: E402
import comfy.model_detection  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.t2i_adapter.adapter  # noqa: E402

from ..parity.model_cases import randomize  # noqa: E402
from .any_diffusion import SMALL, Small  # noqa: E402

Tensors = dict[str, torch.Tensor]
BASES = {small.kind: small for small in SMALL}
PLAIN = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}


def of(module: torch.nn.Module) -> Tensors:
    """Its state dict with random values that float16 holds."""
    return {
        name: x.half().float() if x.is_floating_point() else x for name, x in randomize(module).state_dict().items()
    }


@dataclass(frozen=True)
class CoreKind:
    """A kind of model that a loader node of core's reads.

    loader: "module:class" of core's node; tensors: of a small file; narrow: "module:name" of classes of core's, and
    what each is made of when both loaders build it; more: inputs of core's node alone.
    """

    name: str
    ours: str  # module of nodes.loaders, and node id
    core: str
    file: str  # the input that names the file
    folder: str
    tensors: Callable[[], Tensors]
    narrow: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    base: str = ""  # the class of the diffusion model that a ControlNet is for
    dtype: torch.dtype = torch.float16
    ending: str = ".safetensors"
    more: tuple[str, ...] = ()

    @contextmanager
    def small(self) -> Iterator[None]:
        """Core builds it at small width."""
        with BASES[self.base].detection() if self.base else _nothing():
            patches = [_patched(place, sizes) for place, sizes in self.narrow.items()]
            for each in patches:
                each.start()
            try:
                yield
            finally:
                for each in patches:
                    each.stop()


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _patched(place: str, sizes: Mapping[str, Any]) -> Any:
    module, _, name = place.partition(":")
    owner = import_module(module)
    original = getattr(owner, name)

    @wraps(original, updated=())
    def made(*args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], str) and args[0].endswith(".json"):  # a configuration of core's
            with open(args[0]) as file:
                return original({**json.load(file), **sizes}, *args[1:], **kwargs)
        return original(*args, **{**kwargs, **sizes})

    return patch.object(owner, name, made)


def _config(base: Small) -> dict[str, Any]:
    """How core's detection describes a small diffusion model."""
    with base.detection():
        config = comfy.model_detection.model_config_from_unet(base.tensors(), "")
    return dict(config.unet_config)


def cldm(base: str) -> Tensors:
    """Of a ControlNet for a U-Net of that class."""
    config = _config(BASES[base])
    config.pop("out_channels")
    return of(comfy.cldm.cldm.ControlNet(hint_channels=3, **config, **PLAIN))


def xlabs() -> Tensors:
    """Of a ControlNet of XLabs for FLUX.1, which names norms as FLUX.1's first files do."""
    module = comfy.ldm.flux.controlnet.ControlNetFlux(**_config(BASES["Flux"]), **PLAIN)
    return {old_name(name): x for name, x in of(module).items()}


def old_name(name: str) -> str:
    return name.replace("_norm.weight", "_norm.scale")


def sd35() -> Tensors:
    """Of a ControlNet for SD3.5 large, whose file lacks the embedder that it takes of the diffusion model."""
    module = comfy.cldm.dit_embedder.ControlNetEmbedder(
        img_size=None, patch_size=2, in_chans=16, num_layers=2, main_model_double=2, double_y_emb=True,
        attention_head_dim=64, num_attention_heads=2, adm_in_channels=32, **PLAIN,
    )  # fmt: skip
    held = {name: x for name, x in of(module).items() if not name.startswith("orig_y_embedder.")}
    return {**held, "control_type": torch.ones(())}


def qwen_fun() -> Tensors:
    """Of a ControlNet for Qwen-Image that computes with the first layers of the diffusion model."""
    module = comfy.ldm.qwen_image.controlnet.QwenImageFunControlNetModel(
        control_in_features=132, inner_dim=128, num_attention_heads=1, **_FUN, **PLAIN
    )
    return of(module)


def t2i() -> Tensors:
    """Of a T2I-Adapter of its full kind."""
    return of(comfy.t2i_adapter.adapter.Adapter(cin=192, channels=[64, 128, 256, 256], nums_rb=2, ksize=1, sk=True,
                                                use_conv=False, xl=False))  # fmt: skip


_FUN = {"num_control_blocks": 2, "injection_layers": (0, 1)}
VISION = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96, "image_size": 56, "projection_dim": 48}


def clip_vision() -> Tensors:
    """Of a CLIP vision model with ViT-L's number of layers."""
    config = {
        "num_hidden_layers": 24,
        "hidden_act": "quick_gelu",
        "model_type": "clip_vision_model",
        "patch_size": 14,
        "num_channels": 3,
    }
    return of(comfy.clip_vision.IMAGE_ENCODERS["clip_vision_model"](config | VISION, torch.float32, "cpu",
                                                                    comfy.ops.disable_weight_init))  # fmt: skip


def esrgan() -> Tensors:
    """Of an ESRGAN."""
    from spandrel.architectures.ESRGAN.__arch.RRDB import RRDBNet

    return of(RRDBNet(num_filters=16, num_blocks=1, scale=4))


def compact() -> Tensors:
    """Of a Real-ESRGAN Compact."""
    from spandrel.architectures.Compact.__arch.SRVGG import SRVGGNetCompact

    return of(SRVGGNetCompact(num_feat=24, num_conv=3, upscale=2))


def swin() -> Tensors:
    """Of a SwinIR."""
    from spandrel.architectures.SwinIR import SwinIR

    return of(SwinIR(img_size=16, window_size=8, depths=[2], embed_dim=24, num_heads=[2], mlp_ratio=2, upscale=2,
                     upsampler="pixelshuffledirect"))  # fmt: skip


def latents_720p() -> Tensors:
    """Of HunyuanVideo 1.5's latent upscaler."""
    from comfy.ldm.hunyuan_video.upsampler import SRModel3DV2

    return of(SRModel3DV2(8, 8, 16, 1))


LTX = {"in_channels": 8, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3, "spatial_upsample": True,
       "temporal_upsample": False}  # fmt: skip


def latents_ltx() -> Tensors:
    """Of LTX-Video's latent upscaler."""
    from comfy.ldm.lightricks.latent_upsampler import LatentUpsampler

    return of(LatentUpsampler.from_config(LTX, operations=comfy.ops.disable_weight_init))


WAV = {"num_layers": 1}
BASE = {"embed_dim": 768, "num_heads": 12, "conv_norm": False, "conv_bias": False, "do_normalize": False,
        "do_stable_layer_norm": False}  # fmt: skip


def wav2vec() -> Tensors:
    """Of a Wav2Vec2 of the small kind, with its width, by which core knows it, and one layer."""
    from comfy.audio_encoders.wav2vec2 import Wav2Vec2Model

    return {f"wav2vec2.{name}": x for name, x in of(Wav2Vec2Model(**WAV, **BASE, **PLAIN)).items()}


_CONTROL = partial(CoreKind, ours="controlnet:GGMLControlNet", core="nodes:ControlNetLoader", file="control_net_name",
                   folder="controlnet")  # fmt: skip
_UPSCALER = partial(
    CoreKind, ours="upscale_model:GGMLUpscaleModel", core="comfy_extras.nodes_upscale_model:UpscaleModelLoader",
    file="model_name", folder="upscale_models", dtype=torch.float32,
)  # fmt: skip
_LATENT = partial(
    CoreKind, ours="latent_upscale_model:GGMLLatentUpscaleModel",
    core="comfy_extras.nodes_hunyuan:LatentUpscaleModelLoader", file="model_name", folder="latent_upscale_models",
    dtype=torch.float32,
)  # fmt: skip

CONTROLS = (
    _CONTROL("SD1.5", tensors=partial(cldm, "SD15"), base="SD15"),
    _CONTROL("SDXL", tensors=partial(cldm, "SDXL"), base="SDXL"),
    _CONTROL("FLUX.1 (XLabs)", tensors=xlabs, base="Flux"),
    _CONTROL("T2I-Adapter", tensors=t2i),
)
TAKES = _CONTROL(
    "SD3.5 large", tensors=sd35, base="SD3",
    narrow={"comfy.cldm.dit_embedder:ControlNetEmbedder": {"adm_in_channels": 32}},
)  # fmt: skip
BORROWS = _CONTROL(
    "Qwen-Image Fun", tensors=qwen_fun, base="QwenImage",
    narrow={"comfy.ldm.qwen_image.controlnet:QwenImageFunControlNetModel": _FUN},
)  # fmt: skip
UPSCALERS = (
    _UPSCALER("ESRGAN", tensors=esrgan),
    _UPSCALER("ESRGAN in a pickle", tensors=esrgan, ending=".pth"),
    _UPSCALER("Compact", tensors=compact),
    _UPSCALER("SwinIR", tensors=swin),
)
LATENTS = (
    _LATENT("HunyuanVideo 1.5", tensors=latents_720p),
    _LATENT("LTX-Video", tensors=latents_ltx, metadata={"config": json.dumps(LTX)}),
)
VISIONS = (
    CoreKind(
        "CLIP", "clip_vision:GGMLClipVision", "nodes:CLIPVisionLoader", "clip_name", "clip_vision", clip_vision,
        narrow={"comfy.clip_vision:ClipVisionModel": VISION},
    ),
)  # fmt: skip
SOUNDS = (
    CoreKind(
        "Wav2Vec2", "audio_encoder:GGMLAudioEncoder", "comfy_extras.nodes_audio_encoder:AudioEncoderLoader",
        "audio_encoder_name", "audio_encoders", wav2vec,
        narrow={"comfy.audio_encoders.audio_encoders:Wav2Vec2Model": WAV},
    ),
)  # fmt: skip
