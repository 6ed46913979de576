"""Small stand-ins of control models, model patches, audio encoders and the like: core's own classes.

They are as wide as the small diffusion models that they are for; tests/narrow.py narrows what core takes for given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tests import pack

pack.comfy()

import comfy.cldm.dit_embedder as dit_embedder  # noqa: E402
import comfy.ldm.qwen_image.controlnet as qwen_image  # noqa: E402
import comfy.ops  # noqa: E402
import comfy_extras.nodes_model_patch as model_patch  # noqa: E402

from tests import narrow  # noqa: E402

from ..e2e import geometry_kinds  # noqa: E402
from ..parity.model_cases import randomize  # noqa: E402
from . import patches  # noqa: E402

Tensors = dict[str, torch.Tensor]
_PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}
_QWEN, _WAN = 128, 128  # channels of tests/e2e/any_diffusion.py's


def of(module: torch.nn.Module, prefix: str = "") -> Tensors:
    """Its state dict with random values."""
    return {prefix + name: x for name, x in randomize(module).state_dict().items()}


def _narrow(place: str, prefix: str = "", **more: Any) -> Callable[[], Tensors]:
    """Of the class "module:name", as narrow as a ComfyUI of the tests builds it."""
    return lambda: of(narrow.beside(place)(**_PLAIN, **more), prefix)


def _z_image(layers: int, added: int, refiner: bool) -> Callable[[], Tensors]:
    held = _narrow(
        "comfy.ldm.lumina.controlnet:ZImage_Control",
        n_control_layers=layers, additional_in_dim=added, refiner_control=refiner,
    )  # fmt: skip
    return lambda: patches.z_image_names(held())


def _sd35() -> Tensors:
    """Of the large one's kind, which takes an embedder of the diffusion model; in its file's names."""
    module = dit_embedder.ControlNetEmbedder(
        img_size=None, patch_size=2, in_chans=16, num_layers=2, main_model_double=2, double_y_emb=True,
        attention_head_dim=64, num_attention_heads=2, adm_in_channels=2048, **_PLAIN,
    )  # fmt: skip
    return patches.sd35_names(of(module))


def _qwen_fun() -> Tensors:
    return of(
        qwen_image.QwenImageFunControlNetModel(
            control_in_features=132, inner_dim=_QWEN, num_attention_heads=1, attention_head_dim=128, **_PLAIN
        )
    )


def _infinite_talk() -> Tensors:
    with narrow.beside_narrowed():
        module = model_patch.MultiTalkModelPatch(in_dim=_WAN, intermediate_dim=64, **_PLAIN)
    return of(module)


def _latent_upscaler() -> Tensors:
    held = of(patches.latent_upscaler(32, 64))
    return {patches.shortcuts(name): x for name, x in held.items()}


_WAV = "comfy.audio_encoders.audio_encoders:Wav2Vec2Model"
SMALL: Mapping[str, Callable[[], Tensors]] = {
    "BiRefNet": lambda: of(narrow.beside("comfy.background_removal.birefnet:BiRefNet")({}, *_PLAIN.values())),
    "wav2vec2 large": _narrow(_WAV, do_normalize=True, do_stable_layer_norm=True, **patches.LARGE),
    "wav2vec2 base": _narrow(_WAV, do_normalize=False, do_stable_layer_norm=False, **patches.BASE),
    "Whisper large": _narrow("comfy.audio_encoders.audio_encoders:WhisperLargeV3", "model."),
    "USO projector": _narrow("comfy_extras.nodes_model_patch:SigLIPMultiFeatProjModel", "feature_embedder."),
    "Qwen-Image DiffSynth control": _narrow("comfy_extras.nodes_model_patch:QwenImageBlockWiseControlNet"),
    "Qwen-Image DiffSynth inpaint": _narrow(
        "comfy_extras.nodes_model_patch:QwenImageBlockWiseControlNet", additional_in_dim=4
    ),
    "Wan InfiniteTalk": _infinite_talk,
    "Z-Image Fun control": _z_image(6, 0, False),
    "Z-Image Fun control 2.1": _z_image(15, 17, True),
    "Anima LLLite": lambda: of(patches.anima_lllite(3, _QWEN, 2, _PLAIN)),
    "Anima LLLite inpaint": lambda: of(patches.anima_lllite(4, _QWEN, 2, _PLAIN)),
    "Qwen-Image InstantX control": _narrow(
        "comfy.ldm.qwen_image.controlnet:QwenImageControlNetModel", num_layers=2, in_channels=64
    ),
    "Qwen-Image InstantX inpaint": _narrow(
        "comfy.ldm.qwen_image.controlnet:QwenImageControlNetModel", num_layers=2, in_channels=64,
        extra_condition_channels=4,
    ),
    "Qwen-Image Fun control": _qwen_fun,
    "SD3.5 large control": _sd35,
    "HunyuanVideo 1.5 latent upscaler": _latent_upscaler,
    "MoGe 2 with normals": geometry_kinds.MOGE[1].tensors,
    "Depth Anything 3 Mono": geometry_kinds.DEPTH.tensors,
    "FILM": geometry_kinds.FRAMES[0].tensors,
}  # fmt: skip
