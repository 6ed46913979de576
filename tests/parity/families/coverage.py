"""The classes that ComfyUI can build, read from ComfyUI's own lists, and those that the cases build."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest.mock import patch

import comfy.audio_encoders.audio_encoders
import comfy.clip_model
import comfy.clip_vision
import comfy.controlnet
import comfy.model_base
import comfy.sd
import comfy.supported_models
import comfy.text_encoders
import torch

from .cases import CASES

# What has no case, and why.
EXCEPTIONS = {
    "comfy.ldm.modules.diffusionmodules.upscaling.ImageConcatWithNoiseAugmentation": "adds noise, has no weights",
    "comfy.ldm.ace.vae.music_dcae_pipeline.MusicDCAE": "its autoencoder and vocoder are cases; the STFT is the host's",
    "comfy.ldm.mmaudio.vae.autoencoder.AudioAutoencoder": "its VAE and its vocoder are cases; the STFT is the host's",
    "comfy.ldm.lightricks.vae.audio_vae.AudioVAE": "its vocoder is a case; the STFT is the host's",
    "comfy.ldm.seedvr.vae.VideoAutoencoderKLWrapper": "its encoder and its decoder are cases; it has one width",
    "comfy.ldm.triposplat.vae.OctreeGaussianDecoder": "draws points; tests/e2e/test_seams_any_vae.py has it",
    "comfy.pixel_space_convert.PixelspaceConversionVAE": "has no weights",
    "comfy.text_encoders.gemma4.Gemma4_12B": "its transformer is a case, its eyes and ears are none yet",
    "comfy.text_encoders.gemma4._make_variant.<locals>.Variant": "its transformer is a case, not its eyes",
    "comfy.text_encoders.qwen35.Qwen35": "its transformer is a case, its eyes are those of Qwen3-VL",
    "comfy.text_encoders.joyimage.Qwen3VL8B_JoyImage": "Qwen3VL, but for how it scales pictures",
    "comfy.text_encoders.minimax.MiniMaxQwen3VL": "Qwen3VL, but for its video and what it notes of tokens",
    "comfy.audio_encoders.whisper.WhisperLargeV3": "its encoder is a case; the STFT is the host's",
}


Classes = Callable[[], set[str]]


class _Found(Exception):
    """Ends the building of a model where its diffusion model is known."""


class _Tensors(dict[str, torch.Tensor]):
    """A state dict that has everything."""

    def __missing__(self, key: str) -> torch.Tensor:
        return torch.zeros(1, 1)


class _Config(dict[str, Any]):
    """A configuration that says 1 where it says nothing."""

    def __missing__(self, key: str) -> int:
        return 1

    def copy(self) -> _Config:
        return _Config(self)


def _path(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def diffusion_models() -> set[str]:
    """The class under each model of supported_models, as model_base would build it."""
    found = set()

    def init(self: Any, model_config: Any, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(original).bind(self, model_config, *args, **kwargs)
        given.apply_defaults()
        found.add(_path(given.arguments["unet_model"]))
        raise _Found

    original = comfy.model_base.BaseModel.__init__
    with patch.object(comfy.model_base.BaseModel, "__init__", init):
        for kind in comfy.supported_models.models:
            model = kind(_Config(kind.unet_config))
            try:
                model.get_model(_Tensors(), "", None)
            except _Found:
                continue
            raise AssertionError(f"{kind.__name__} builds no model of model_base")
    return found


def text_encoders() -> set[str]:
    """The classes that SDClipModel can hold as its transformer: those with a table of embeddings to ask for."""
    names = [module.name for module in pkgutil.iter_modules(comfy.text_encoders.__path__, "comfy.text_encoders.")]
    modules = [comfy.clip_model, *(importlib.import_module(name) for name in names)]
    found = set()
    for module in modules:
        for kind in vars(module).values():
            own = inspect.isclass(kind) and issubclass(kind, torch.nn.Module) and kind.__module__ == module.__name__
            if own and hasattr(kind, "get_input_embeddings") and not kind.__name__.endswith("Base"):
                found.add(_path(kind))
    return found


def _calls(function: Any, module: ModuleType, target: str | None) -> Iterator[Any]:
    """Classes of torch modules that a function calls; target: only what it assigns to this attribute."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("comfy.ldm."):
            name, _, kind = node.value.rpartition(".")
            yield getattr(importlib.import_module(name), kind)
        call = node
        if target is not None:
            if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != f"self.{target}":
                continue
            call = node.value
        if isinstance(call, ast.Call):
            kind = _resolve(ast.unparse(call.func), module)
            if inspect.isclass(kind) and issubclass(kind, torch.nn.Module):
                yield kind


def _resolve(name: str, module: ModuleType) -> Any:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def autoencoders() -> set[str]:
    """The classes that comfy.sd.VAE can hold, and those that its configurations name."""
    return {_path(kind) for kind in _calls(comfy.sd.VAE.__init__, comfy.sd, "first_stage_model")}


def encoders() -> set[str]:
    """The classes that ComfyUI's loaders of vision and sound encoders build."""
    sound = comfy.audio_encoders.audio_encoders
    found = set(comfy.clip_vision.IMAGE_ENCODERS.values())
    return {_path(kind) for kind in found | set(_calls(sound.AudioEncoderModel.__init__, sound, "model"))}


def control_models() -> set[str]:
    """The classes that comfy.controlnet's loaders build."""
    functions = [f for name, f in vars(comfy.controlnet).items() if name.startswith("load_") and inspect.isfunction(f)]
    kinds = [kind for function in functions for kind in _calls(function, comfy.controlnet, None)]
    kinds += _calls(comfy.sd.load_style_model, comfy.sd, None)
    return {_path(kind) for kind in kinds if kind.__module__.startswith("comfy.")}


def built() -> set[str]:
    """The classes of all parts of all cases."""
    found = set()
    for case in CASES:
        with torch.device("cpu"):
            found |= {_path(kind) for part in case.build().modules() for kind in type(part).__mro__}
    return found
