"""Control models, model patches, audio encoders and the like at real size: core's own classes, in names of files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tests import pack

pack.comfy()

import comfy.audio_encoders.wav2vec2 as wav2vec2  # noqa: E402
import comfy.audio_encoders.whisper as whisper  # noqa: E402
import comfy.background_removal.birefnet as birefnet  # noqa: E402
import comfy.ldm.anima.lllite as lllite  # noqa: E402
import comfy.ldm.lumina.controlnet as lumina  # noqa: E402
import comfy.ldm.qwen_image.controlnet as qwen_image  # noqa: E402
import comfy.ops  # noqa: E402
import comfy_extras.nodes_hunyuan as hunyuan  # noqa: E402
import comfy_extras.nodes_model_patch as model_patch  # noqa: E402

Shapes = Mapping[str, tuple[int, ...]]
_META: dict[str, Any] = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}
_LARGE = {"embed_dim": 1024, "num_heads": 16, "num_layers": 24, "conv_norm": True, "conv_bias": True}
_BASE = {"embed_dim": 768, "num_heads": 12, "num_layers": 12, "conv_norm": False, "conv_bias": False}
_LLLITE_WIDTH, _LLLITE_CONDITION, _LLLITE_RANK, _ANIMA_WIDTH, _ANIMA_BLOCKS = 64, 32, 64, 2048, 28


def _shapes(make: Callable[..., torch.nn.Module], prefix: str = "", **more: Any) -> Callable[[], Shapes]:
    """The names and shapes of a class of core's; prefix: that files have before its names."""

    def made() -> Shapes:
        with torch.device("meta"):
            held = make(**(_META | more)).state_dict()
        return {prefix + name: tuple(tensor.shape) for name, tensor in held.items()}

    return made


def _birefnet(**factory: Any) -> torch.nn.Module:
    config = json.loads(Path(birefnet.__file__).with_name("birefnet.json").read_text(encoding="utf-8"))
    made: torch.nn.Module = birefnet.BiRefNet(config, *factory.values())
    return made


def _whisper(**factory: Any) -> torch.nn.Module:
    with torch.device("cpu"):  # its filters of frequencies are computed
        return whisper.WhisperLargeV3(**factory)


def _latent_upscaler() -> Shapes:
    """HunyuanVideo 1.5's, whose shortcuts have a shorter name in files."""
    config = {"z_channels": 32, "out_channels": 32, "block_out_channels": (512, 1024)}
    held = _shapes(lambda **_: hunyuan.HunyuanVideo15SRModel("1080p", config).model)()
    return {name.replace("nin_shortcut.conv", "nin_shortcut"): shape for name, shape in held.items()}


def _z_image(layers: int, added: int, refiner: bool) -> Callable[[], Shapes]:
    """Z-Image's Fun ControlNet in diffusers' names, with q, k and v apart."""
    own = _shapes(lumina.ZImage_Control, n_control_layers=layers, additional_in_dim=added, refiner_control=refiner)
    names = {".out.weight": ".to_out.0.weight", ".k_norm.weight": ".norm_k.weight", ".q_norm.weight": ".norm_q.weight"}

    def made() -> Shapes:
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in own().items():
            if name.endswith(".qkv.weight"):
                found |= {name.replace("qkv", f"to_{part}"): (shape[0] // 3, shape[1]) for part in "qkv"}
            else:
                found[re.sub(r"(?<=\.attention)\.(out|[kq]_norm)\.weight$", lambda m: names[m[0]], name)] = shape
        return found

    return made


def _anima_lllite(channels: int) -> Callable[[], Shapes]:
    """Of kohya's usual sizes, which the files' pages do not tell. channels: of the picture, with a mask 4."""

    def made() -> Shapes:
        conditioning = _shapes(
            lambda **factory: lllite.AnimaLLLiteConditioning(
                channels, _LLLITE_WIDTH, _LLLITE_CONDITION, 1, (), **factory
            ),
            "lllite_conditioning1.",
        )
        adapter = _shapes(
            lambda **factory: lllite.AnimaLLLiteModule(_ANIMA_WIDTH, _LLLITE_CONDITION, _LLLITE_RANK, **factory)
        )()
        adapters = {
            f"lllite_dit_blocks_{block}_self_attn_{part}_proj.{name}": shape
            for block in range(_ANIMA_BLOCKS)
            for part in "qkv"
            for name, shape in adapter.items()
        }
        return {**conditioning(), **adapters}

    return made


def _qwen_control(channels: int) -> Callable[[], Shapes]:
    """InstantX's ControlNet of five blocks. channels: of the condition."""
    return _shapes(
        qwen_image.QwenImageControlNetModel, extra_condition_channels=channels - 64, num_layers=5, in_channels=64,
        image_model="qwen_image",
    )  # fmt: skip


PATCHES: Mapping[str, Callable[[], Shapes]] = {
    "BiRefNet": _shapes(_birefnet),
    "wav2vec2 large": _shapes(wav2vec2.Wav2Vec2Model, do_normalize=True, do_stable_layer_norm=True, **_LARGE),
    "wav2vec2 base": _shapes(wav2vec2.Wav2Vec2Model, do_normalize=False, do_stable_layer_norm=False, **_BASE),
    "Whisper large": _shapes(_whisper, "model."),
    "USO projector": _shapes(model_patch.SigLIPMultiFeatProjModel, "feature_embedder."),
    "Qwen-Image DiffSynth control": _shapes(model_patch.QwenImageBlockWiseControlNet),
    "Qwen-Image DiffSynth inpaint": _shapes(model_patch.QwenImageBlockWiseControlNet, additional_in_dim=4),
    "Wan InfiniteTalk": _shapes(model_patch.MultiTalkModelPatch),
    "Z-Image Fun control": _z_image(6, 0, False),
    "Z-Image Fun control 2.1": _z_image(15, 17, True),
    "Anima LLLite": _anima_lllite(3),
    "Anima LLLite inpaint": _anima_lllite(4),
    "Qwen-Image InstantX control": _qwen_control(64),
    "Qwen-Image InstantX inpaint": _qwen_control(68),
    "HunyuanVideo 1.5 latent upscaler": _latent_upscaler,
}
FILES: Mapping[str, str] = {
    "birefnet": "BiRefNet",
    "wav2vec2_large": "wav2vec2 large",
    "wav2vec2-chinese-base": "wav2vec2 base",
    "whisper_large": "Whisper large",
    "uso-flux1-projector": "USO projector",
    "z-image-turbo-fun-controlnet-union-2": "Z-Image Fun control 2.1",
    "z-image-turbo-fun-controlnet-union": "Z-Image Fun control",
    "anima-lllite-inpaint": "Anima LLLite inpaint",
    "anima-lllite": "Anima LLLite",
    "qwen-image-instantx-controlnet-inpaint": "Qwen-Image InstantX inpaint",
    "qwen-image-instantx-controlnet": "Qwen-Image InstantX control",
    "hunyuanvideo15_latent_upsampler": "HunyuanVideo 1.5 latent upscaler",
}
