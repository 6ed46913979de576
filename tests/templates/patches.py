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
import comfy.cldm.dit_embedder as dit_embedder  # noqa: E402
import comfy.ldm.anima.lllite as lllite  # noqa: E402
import comfy.ldm.lumina.controlnet as lumina  # noqa: E402
import comfy.ldm.qwen_image.controlnet as qwen_image  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.utils  # noqa: E402
import comfy_extras.nodes_hunyuan as hunyuan  # noqa: E402
import comfy_extras.nodes_model_patch as model_patch  # noqa: E402

Shapes = Mapping[str, tuple[int, ...]]
Tensors = dict[str, torch.Tensor]
_META: dict[str, Any] = {"dtype": torch.float32, "device": "meta", "operations": comfy.ops.disable_weight_init}
LARGE = {"embed_dim": 1024, "num_heads": 16, "num_layers": 24, "conv_norm": True, "conv_bias": True}
BASE = {"embed_dim": 768, "num_heads": 12, "num_layers": 12, "conv_norm": False, "conv_bias": False}
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


def latent_upscaler(*widths: int) -> torch.nn.Module:
    """HunyuanVideo 1.5's; widths: of its levels."""
    config = {"z_channels": 32, "out_channels": 32, "block_out_channels": widths}
    made: torch.nn.Module = hunyuan.HunyuanVideo15SRModel("1080p", config).model
    return made


def shortcuts(name: str) -> str:
    """The name in a file of HunyuanVideo 1.5's latent upscaler, whose shortcuts have a shorter one."""
    return name.replace("nin_shortcut.conv", "nin_shortcut")


def _latent_upscaler() -> Shapes:
    return {shortcuts(name): shape for name, shape in _shapes(lambda **_: latent_upscaler(512, 1024))().items()}


def _z_image(layers: int, added: int, refiner: bool) -> Callable[[], Shapes]:
    def made() -> Shapes:
        with torch.device("meta"):
            module = lumina.ZImage_Control(
                **_META, n_control_layers=layers, additional_in_dim=added, refiner_control=refiner
            )
        return {name: tuple(x.shape) for name, x in z_image_names(module.state_dict()).items()}

    return made


def z_image_names(held: Tensors) -> Tensors:
    """Z-Image's Fun ControlNet in diffusers' names, with q, k and v apart."""
    names = {".out.weight": ".to_out.0.weight", ".k_norm.weight": ".norm_k.weight", ".q_norm.weight": ".norm_q.weight"}
    found: Tensors = {}
    for name, x in held.items():
        if name.endswith(".qkv.weight"):
            found |= {name.replace("qkv", f"to_{part}"): each for part, each in zip("qkv", x.chunk(3), strict=True)}
        else:
            found[re.sub(r"(?<=\.attention)\.(out|[kq]_norm)\.weight$", lambda m: names[m[0]], name)] = x
    return found


def anima_lllite(channels: int, width: int, blocks: int, factory: Mapping[str, Any]) -> torch.nn.ModuleDict:
    """Of kohya's usual sizes, which the files' pages do not tell. channels: of the picture, with a mask 4."""
    made = {
        f"lllite_dit_blocks_{block}_self_attn_{part}_proj": lllite.AnimaLLLiteModule(
            width, _LLLITE_CONDITION, _LLLITE_RANK, **factory
        )
        for block in range(blocks)
        for part in "qkv"
    }
    conditioning = lllite.AnimaLLLiteConditioning(channels, _LLLITE_WIDTH, _LLLITE_CONDITION, 1, (), **factory)
    return torch.nn.ModuleDict({"lllite_conditioning1": conditioning, **made})


def _anima_lllite(channels: int) -> Callable[[], Shapes]:
    def made() -> Shapes:
        held = anima_lllite(channels, _ANIMA_WIDTH, _ANIMA_BLOCKS, _META).state_dict()
        return {name: tuple(x.shape) for name, x in held.items()}

    return made


def _qwen_control(channels: int) -> Callable[[], Shapes]:
    """InstantX's ControlNet of five blocks. channels: of the condition."""
    return _shapes(
        qwen_image.QwenImageControlNetModel, extra_condition_channels=channels - 64, num_layers=5, in_channels=64,
        image_model="qwen_image",
    )  # fmt: skip


def sd35_names(held: Tensors) -> Tensors:
    """The tensors of a ControlNet of SD3.5 in its file's names, without the embedder that it takes of the model."""
    names = {ours: theirs for ours, theirs, *_ in comfy.utils.MMDIT_MAP_BASIC}
    own = {names.get(name, name): x for name, x in held.items() if not name.startswith("orig_y_embedder.")}
    return {"control_type": torch.ones(()), **own}


def _sd35() -> Shapes:
    """Stability's for SD3.5 large: half as many blocks as the model."""
    held = dit_embedder.ControlNetEmbedder(
        img_size=None, patch_size=2, in_chans=16, num_layers=19, main_model_double=38, double_y_emb=True,
        attention_head_dim=64, num_attention_heads=38, adm_in_channels=2048, **_META,
    ).state_dict()  # fmt: skip
    return {name: tuple(x.shape) for name, x in sd35_names(held).items()}


PATCHES: Mapping[str, Callable[[], Shapes]] = {
    "BiRefNet": _shapes(_birefnet),
    "wav2vec2 large": _shapes(wav2vec2.Wav2Vec2Model, do_normalize=True, do_stable_layer_norm=True, **LARGE),
    "wav2vec2 base": _shapes(wav2vec2.Wav2Vec2Model, do_normalize=False, do_stable_layer_norm=False, **BASE),
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
    "Qwen-Image Fun control": _shapes(qwen_image.QwenImageFunControlNetModel),
    "SD3.5 large control": _sd35,
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
    "qwen-image-2512-fun-controlnet": "Qwen-Image Fun control",
    "sd3.5_large_controlnet": "SD3.5 large control",
    "hunyuanvideo15_latent_upsampler": "HunyuanVideo 1.5 latent upscaler",
}
