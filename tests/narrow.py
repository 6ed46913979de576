"""Core's classes at small width: for tables of small models, and for a ComfyUI whose files say how small they are.

A file says it in its metadata, under NOTE, as the text of a dict: "kind", "sizes" of its diffusion model, and "narrow",
arguments of classes. Encoders say nothing: each class has its small sizes here.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

import comfy.clip_model
import comfy.clip_vision
import comfy.model_detection
import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.text_encoders.jina_clip_2 as jina
import comfy.text_encoders.t5 as t5
import comfy.utils
import torch

NOTE = "small_model"
Narrow = Mapping[str, Mapping[str, Any]]
# What text encoders are made of; what reaches others, their width and vocabulary, stays as it is.
_ENCODER = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
# By class: what its detection or its file differs in.
_BY_CLASS: Mapping[str, Mapping[str, Any]] = {
    "T5": {"d_ff": 64, "num_heads": 2},
    "CLIPTextModel": {"num_hidden_layers": 3, "intermediate_size": 64},
    "Qwen25_7BVLI": {"num_key_value_heads": 4, "num_hidden_layers": 4},
    "Gemma2_2B": {"vocab_size": 512, "num_attention_heads": 2, "num_key_value_heads": 1},
    "Gemma3_4B": {"vocab_size": 512, "num_attention_heads": 2, "num_key_value_heads": 1},
    "Gemma3_12B": {"vocab_size": 512, "num_attention_heads": 1, "num_key_value_heads": 1},
    "Variant": {"vocab_size": 512, "hidden_size_per_layer_input": 8},  # of Gemma 4
    "XLMRobertaModel": {"vocab_size": 512, "intermediate_size": 64},
    "Mistral3Small24B": {"vocab_size": 2048},
    "Ministral3_3B": {"vocab_size": 2048},
}
_LARGEST, _PICTURE = 160, 96  # pixels of a side
_SQUARE = (_PICTURE, _PICTURE)
# Classes of control models and the like, whose sizes files do not tell: as wide as the small diffusion models.
BESIDE: Narrow = {
    "comfy.audio_encoders.wav2vec2:FeedForward": {"mlp_ratio": 0.25},
    "comfy.audio_encoders.whisper:EncoderLayer": {"d_ff": 64},
    "comfy.background_removal.birefnet:SwinTransformer": {"depths": [2, 2, 2, 2]},
    "comfy.ldm.lumina.controlnet:ZImage_Control": {"dim": 256, "n_heads": 2, "n_kv_heads": 2, "multiple_of": 32},
    "comfy.ldm.qwen_image.controlnet:QwenImageControlNetModel": {"num_attention_heads": 1},
    "comfy.ldm.rt_detr.rtdetr_v4:DFINETransformer": {"eval_spatial_size": _SQUARE, "num_queries": 100, "num_layers": 2},
    "comfy.ldm.rt_detr.rtdetr_v4:HybridEncoder": {"eval_spatial_size": _SQUARE},
    "comfy.ldm.sam3.detector:Transformer": {"enc_layers": 1, "dec_layers": 2, "dim_ff": 128, "num_queries": 20},
    "comfy.ldm.sam3.sam:ViTDet": {"img_size": _PICTURE, "depth": 2, "global_att_blocks": (1,), "mlp_ratio": 0.25},
    "comfy.ldm.sam3.tracker:DecoupledMemoryEncoder": {"image_size": _PICTURE, "num_layers": 2},
    "comfy.ldm.sam3.tracker:MaskDownSampler": {"interpol_size": _SQUARE},
    "comfy.ldm.sam3.tracker:SAMPromptEncoder": {"image_embedding_size": (_PICTURE // 14, _PICTURE // 14)},
    "comfy.text_encoders.gpt_oss:GptOss20BConfig": _ENCODER,
    "comfy.text_encoders.lt:DualLinearProjection": {"out_dim_video": 128, "out_dim_audio": 64},
    "comfy.ldm.wan.model_multitalk:SingleStreamMultiAttention": {"num_heads": 2},
    "comfy_extras.nodes_frame_interpolation:FILMNet": {"filters": 8, "flow_filters": (8, 8, 16, 16)},
    "comfy_extras.nodes_model_patch:MultiTalkModelPatch": {"num_layers": 2},
    "comfy_extras.nodes_model_patch:QwenImageBlockWiseControlNet": {"dim": 128, "num_layers": 2},
    "comfy_extras.nodes_model_patch:SigLIPMultiFeatProjModel": {"hidden_size": 128},
}
_TOKENS = 128  # what a text is padded to at most
_HELD = ExitStack()  # what follow() began
_VISION = {"intermediate_size": 64, "num_hidden_layers": 3}


@contextmanager
def detection(kind: str, sizes: Mapping[str, Any]) -> Iterator[None]:
    """Within it core's detection finds a diffusion model of the class `kind` and of these sizes."""
    detect, original = comfy.model_detection.detect_unet_config, comfy.model_detection.model_config_from_unet_config
    asked = getattr(comfy.supported_models, kind).unet_config

    def sized(unet_config: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        config = original({**unet_config, **asked}, *args, **kwargs)
        config.unet_config.update({n: unet_config[n] for n in asked if n in unet_config and n in config.unet_config})
        config.unet_config.update(sizes)
        return config

    with (
        patch.object(comfy.model_detection, "detect_unet_config", lambda *a, **k: detect(*a, **k) or {}),
        patch.object(comfy.model_detection, "model_config_from_unet_config", sized),
    ):
        yield


@contextmanager
def narrowed(places: Narrow) -> Iterator[None]:
    """Within it classes, "module:name", are given other arguments than core gives them."""
    with ExitStack() as stack:
        for place, config in places.items():
            module, name = place.split(":")
            owner = import_module(module)
            stack.enter_context(patch.object(owner, name, _with(getattr(owner, name), config)))
        yield


def _with(cls: Callable[..., Any], config: Mapping[str, Any]) -> Callable[..., Any]:
    """The class with other arguments than it is given; those of encoder, decoder and ddconfig are changed inside."""

    @functools.wraps(cls, updated=())
    def make(*args: Any, **kwargs: Any) -> Any:
        nested = {
            name: {**value, "params": {**value["params"], **config}}
            for name, value in kwargs.items()
            if name in ("encoder_config", "decoder_config")
        }
        if nested:
            return cls(*args, **{**kwargs, **nested})
        sizes = {name: {**kwargs[name], **config} for name in ("ddconfig", "decoder_ddconfig") if name in kwargs}
        if sizes:
            return cls(*args, **{**kwargs, **sizes})
        if args and isinstance(args[0], dict):
            return cls({**args[0], **config}, *args[1:], **kwargs)
        return cls(*args, **{**kwargs, **config})

    return make


@contextmanager
def beside_narrowed() -> Iterator[None]:
    """Within it the classes of BESIDE are built with its arguments, whatever they are given."""
    with ExitStack() as stack:
        for place, config in BESIDE.items():
            module, name = place.split(":")
            imported = import_module(module)
            # ComfyUI loads its extra nodes a second time, under the path of their file.
            twins = [each for each in list(sys.modules.values()) if _file(each) == _file(imported)]
            for owner in twins:
                stack.enter_context(patch.object(owner, name, _subclass(getattr(owner, name), config)))
        yield


def _file(module: Any) -> str | None:
    return vars(module).get("__file__") if module is not None else None


def beside(place: str) -> Callable[..., Any]:
    """Makes a module of the class "module:name" as within `beside_narrowed`."""
    module, name = place.split(":")

    def make(*args: Any, **kwargs: Any) -> Any:
        with beside_narrowed():
            return getattr(import_module(module), name)(*args, **kwargs)

    return make


def _subclass(kind: type, config: Mapping[str, Any]) -> type:
    """The class with these arguments in the place of those that it is given."""
    names = list(inspect.signature(kind).parameters)

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, **{**dict(zip(names, args, strict=False)), **kwargs, **config})  # type: ignore[misc]

    return type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})


def encoder_sizes(kind: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """The small sizes of a text encoder, by its class and core's configuration of it."""
    found = dict(_BY_CLASS.get(kind.__name__, {}))
    if kind is t5.T5:
        by_detection = {"num_heads": 6} if config.get("d_model") == 1472 else {}  # ByT5, by 384 channels
        return found | by_detection | ({"vocab_size": 512, "num_layers": 2} if _is_umt5(config) else {})
    return found if kind in (comfy.clip_model.CLIPTextModel, jina.XLMRobertaModel) else {**_ENCODER, **found}


def _is_umt5(config: Mapping[str, Any]) -> bool:
    return bool(config.get("vocab_size", 0) > 200000)


def vision_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The small sizes of a vision encoder: the same width and pictures."""
    return {key: value for key, value in _VISION.items() if key in config}


@contextmanager
def towers() -> Iterator[None]:
    """Within it the vision towers of language models have few channels and layers."""
    import comfy.text_encoders.qwen3vl as qwen3vl
    import comfy.text_encoders.qwen_vl as qwen_vl

    tower = functools.partial(qwen_vl.Qwen2VLVisionTransformer, intermediate_size=96, num_heads=4, num_layers=2)
    shape = {"hidden_size": 64, "intermediate_size": 96, "depth": 4, "deepstack_visual_indexes": [0, 2, 3]}
    with (
        patch.object(
            qwen_vl, "Qwen2VLVisionTransformer", lambda hidden_size, **others: tower(hidden_size=64, **others)
        ),
        patch.dict(qwen3vl.QWEN3VL_VISION, dict.fromkeys(qwen3vl.QWEN3VL_VISION, shape)),
        patch.dict(qwen3vl.QWEN3VL_VISION_COMMON, {"num_heads": 4}),
    ):
        yield


def noted(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The note of a file on how small it is."""
    return dict(ast.literal_eval((metadata or {}).get(NOTE, "{}")))


def follow() -> None:
    """From now on core builds every model as small as its file says, and text and vision encoders small."""
    _HELD.enter_context(towers())
    _HELD.enter_context(beside_narrowed())
    detect = comfy.model_detection.model_config_from_unet

    def detected(state_dict: Any, prefix: str, use_base: bool = False, metadata: Any = None) -> Any:
        note = noted(metadata)
        with detection(note["kind"], note["sizes"]) if "kind" in note else ExitStack():
            return detect(state_dict, prefix, use_base, metadata)

    comfy.model_detection.model_config_from_unet = detected
    _shrink_moge()
    vae = comfy.sd.VAE.__init__

    @functools.wraps(vae)
    def made(self: Any, sd: Any = None, device: Any = None, config: Any = None, dtype: Any = None, metadata: Any = None,
             **more: Any) -> None:  # fmt: skip
        with narrowed(noted(metadata).get("narrow", {})):
            vae(self, sd, device, config, dtype, metadata, **more)

    comfy.sd.VAE.__init__ = made
    _shrink_encoders()
    kind_of = comfy.sd.detect_te_model

    def kind_of_encoder(sd: Any) -> Any:
        inner = sd.get("encoder.block.23.layer.1.DenseReluDense.wi_1.weight")
        is_t5 = inner is not None and tuple(inner.shape) == (_BY_CLASS["T5"]["d_ff"], 4096)
        return comfy.sd.TEModel.T5_XXL if is_t5 else kind_of(sd)

    comfy.sd.detect_te_model = kind_of_encoder
    vision = comfy.clip_vision.ClipVisionModel.__init__

    def seen(self: Any, json_config: Any) -> None:
        if not isinstance(json_config, dict):
            with open(json_config, encoding="utf-8") as file:
                json_config = json.load(file)
        vision(self, {**json_config, **vision_sizes(json_config)})

    comfy.clip_vision.ClipVisionModel.__init__ = seen
    scale = comfy.utils.common_upscale

    def scaled(samples: Any, width: int, height: int, *more: Any, **named: Any) -> Any:
        return scale(samples, *small_picture(width, height), *more, **named)

    comfy.utils.common_upscale = scaled
    tokenizer = comfy.sd1_clip.SDTokenizer.__init__

    @functools.wraps(tokenizer)
    def short(self: Any, *args: Any, **kwargs: Any) -> None:
        given = _bound(tokenizer, self, args, kwargs)
        tokenizer(self, **{**given, "min_length": min(given["min_length"] or 0, _TOKENS) or given["min_length"]})

    comfy.sd1_clip.SDTokenizer.__init__ = short


def small_picture(width: int, height: int) -> tuple[int, int]:
    """The size of a picture that a node scales to a size of its own, such as a million pixels."""
    if width * height <= _LARGEST**2:
        return width, height
    factor = _PICTURE / math.sqrt(width * height) / 32
    return 32 * max(1, round(width * factor)), 32 * max(1, round(height * factor))


def _shrink_moge() -> None:
    """MoGe sees few patches, and computes in float32 as torch cannot resize pictures of float16 on the CPU."""
    import comfy.ldm.moge.model as moge

    moge.MoGeModelV2.num_tokens_range = (24, 48)
    original = moge.MoGeModel.__init__

    @functools.wraps(original)
    def init(self: Any, state_dict: Any) -> None:
        with patch.object(comfy.model_management, "text_encoder_dtype", lambda *_: torch.float32):
            original(self, state_dict)

    moge.MoGeModel.__init__ = init


def _shrink_encoders() -> None:
    def shrunk(kind: type, config: Any) -> dict[str, Any]:
        if not isinstance(config, dict):
            with open(config, encoding="utf-8") as file:
                config = json.load(file)
        return config | encoder_sizes(kind, config)

    original = comfy.sd1_clip.SDClipModel.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        given = _bound(original, self, args, kwargs)
        config, kind = given["textmodel_json_config"], given["model_class"]
        if config is None:
            config = str(comfy.sd1_clip.__file__).replace("sd1_clip.py", "sd1_clip_config.json")
            given["model_options"] = {"model_name": "clip_l", **given["model_options"]}
        if isinstance(kind, type):  # else what this pack makes of a file, whose sizes it reads
            given["textmodel_json_config"] = shrunk(kind, config)
        original(self, **given)

    comfy.sd1_clip.SDClipModel.__init__ = init


def _bound(function: Any, self: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    from inspect import signature

    bound = signature(function).bind(self, *args, **kwargs)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name != "self"}
