"""The loader nodes, one row each: how the planner follows them, and which of their inputs it may change.

A new loader is a row here; rules, search and advice read the table. js/settings.js lists the same nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...native.placement import AUTO, DEVICE, RAM
from ..loaders.audio_encoder import GGMLAudioEncoder
from ..loaders.background_removal import GGMLBackgroundRemoval
from ..loaders.checkpoint import CLIP, MODEL, VAE, checkpoint_of
from ..loaders.clip_vision import GGMLClipVision
from ..loaders.controlnet import GGMLControlNet
from ..loaders.core_models import CoreModelNode
from ..loaders.depth_anything import GGMLDepthAnything3
from ..loaders.diffusion import GGMLDiffusionModel
from ..loaders.frame_interpolation import GGMLFrameInterpolation
from ..loaders.latent_upscale_model import GGMLLatentUpscaleModel
from ..loaders.model_patch import GGMLModelPatch
from ..loaders.moge import GGMLMoGeModel
from ..loaders.optical_flow import GGMLOpticalFlow
from ..loaders.text_encoders import encoders_of
from ..loaders.upscale_model import GGMLUpscaleModel
from ..loaders.vae import GGMLVAE
from .language import language_model
from .unknown import Inputs, NodeTurn, Outputs, Rule, all_known


@dataclass(frozen=True)
class LoaderPart:
    """A model that a loader node loads, with the inputs `device` and `weights` that are about it."""

    residencies: tuple[str, ...] = ()  # tried where `weights` is auto, the fastest first; (): it has no such input
    prefix: str = ""  # of the names of those two inputs
    tiles: bool = False  # has the inputs `tiling`, `tile_size` and `overlap`
    streams: bool = False  # streaming its weights is worth advising
    cpu_advice: int = 0  # rank of the advice to move it to the CPU, 1 first; 0: never advised


@dataclass(frozen=True)
class Loader:
    """A loader node."""

    node_id: str
    title: str  # its display name
    rule: Rule
    parts: tuple[LoaderPart, ...]  # in the order in which the search moves them for the sake of another
    releases: bool = False  # has the input `after_use`
    files: str = ""  # the folder whose smaller files are advised for `model_name`; "": none


def _diffusion_model(inputs: Inputs, _turn: NodeTurn) -> Outputs:
    return tuple(GGMLDiffusionModel.execute(**all_known(inputs)).result)


def _text_encoders(inputs: Inputs, _turn: NodeTurn) -> Outputs:
    return (encoders_of(**all_known(inputs))[0],)


def _vae(inputs: Inputs, _turn: NodeTurn) -> Outputs:
    return tuple(GGMLVAE.execute(**all_known(inputs)).result)


def _checkpoint(inputs: Inputs, turn: NodeTurn) -> Outputs:
    def begins(prefix: str) -> None:
        turn.recorder.part = replace(turn.recorder.part, prefix=prefix)

    return checkpoint_of(**all_known(inputs), begins=begins)[0]


def _core_model(node: type[CoreModelNode], title: str, *, cpu_advice: int = 0) -> Loader:
    """The row of a loader of one of core's other models."""

    def rule(inputs: Inputs, _turn: NodeTurn) -> Outputs:
        return tuple(node.execute(**all_known(inputs)).result)

    return Loader(node.__name__, title, rule, (LoaderPart((DEVICE, RAM), cpu_advice=cpu_advice),))


# The weights of a VAE are small beside its compute buffer.
_ENCODERS, _DECODER = LoaderPart((DEVICE, RAM), cpu_advice=3), LoaderPart((AUTO,), tiles=True, cpu_advice=2)
_DIFFUSION = LoaderPart((DEVICE, RAM), streams=True)
# In the order in which the search moves them for the sake of another: what computes once or seldom first.
LOADERS: Mapping[str, Loader] = {
    loader.node_id: loader
    for loader in (
        Loader("GGMLLanguageModel", "GGML Language Model", language_model, (LoaderPart(cpu_advice=1),), releases=True),
        Loader("GGMLTextEncoders", "GGML Text Encoders", _text_encoders, (_ENCODERS,)),
        Loader("GGMLVAE", "GGML VAE", _vae, (_DECODER,)),
        _core_model(GGMLClipVision, "GGML CLIP Vision", cpu_advice=3),
        _core_model(GGMLAudioEncoder, "GGML Audio Encoder", cpu_advice=3),
        _core_model(GGMLBackgroundRemoval, "GGML Background Removal", cpu_advice=3),
        _core_model(GGMLMoGeModel, "GGML MoGe Model", cpu_advice=4),
        _core_model(GGMLDepthAnything3, "GGML Depth Anything", cpu_advice=4),
        _core_model(GGMLFrameInterpolation, "GGML Frame Interpolation", cpu_advice=4),
        _core_model(GGMLOpticalFlow, "GGML Optical Flow", cpu_advice=4),
        _core_model(GGMLUpscaleModel, "GGML Upscale Model", cpu_advice=4),
        _core_model(GGMLLatentUpscaleModel, "GGML Latent Upscale Model", cpu_advice=4),
        Loader(
            "GGMLCheckpoint", "GGML Checkpoint", _checkpoint,
            (replace(_ENCODERS, prefix=CLIP), replace(_DECODER, prefix=VAE), replace(_DIFFUSION, prefix=MODEL)),
        ),
        _core_model(GGMLModelPatch, "GGML Model Patch"),
        _core_model(GGMLControlNet, "GGML ControlNet"),
        Loader("GGMLDiffusionModel", "GGML Diffusion Model", _diffusion_model, (_DIFFUSION,), files="diffusion_models"),
    )
}  # fmt: skip


def loader_nodes(prompt: Mapping[str, Any]) -> Iterator[tuple[str, Loader, Mapping[str, Any]]]:
    """The loaders in a prompt: node id, row, inputs."""
    for node, described in prompt.items():
        if isinstance(described, Mapping) and isinstance(described.get("inputs"), Mapping):
            loader = LOADERS.get(str(described.get("class_type")))
            if loader is not None:
                yield node, loader, described["inputs"]
