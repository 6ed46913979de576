"""The kinds of model in a weight file, by ComfyUI's own detection, for errors that name it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import comfy.model_detection
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...native.weights import WeightFile, WeightFileError
from ...native.weights.llama_names import is_llama, names_in_transformers
from .recording import Recording

Result = TypeVar("Result")
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of model that a file was found to hold."""

    description: str  # for messages
    advice: str  # what to do with such a file


# Kinds that core's detection makes or takes for another; the names of tensors, behind any prefix, of which one is
# enough: those of peft and kohya, of diffusers' and the first ControlNets, of VAEs (comfy/sd.py) and CLIP's eyes.
ADAPTERS = {
    Kind("a LoRA", "Choose it in Load LoRA."): ("lora_down.weight", "lora_A.weight", "lora_A.default.weight"),
    Kind("a ControlNet", "Choose it in GGML ControlNet."): (
        "controlnet_blocks.0.weight", "controlnet_x_embedder.weight", "input_hint_block.0.weight",
    ),
}  # fmt: skip
MARKED = {
    Kind("a VAE", "Choose it in GGML VAE."): (
        "decoder.conv_in.weight", "decoder.conv_in.conv.weight", "decoder.middle.0.residual.0.gamma",
        "decoder.up_blocks.0.resnets.0.norm1.weight",
    ),
    Kind("a CLIP vision model", "Choose it in GGML CLIP Vision."): ("vision_model.encoder.layers.0.mlp.fc1.weight",),
}  # fmt: skip
LANGUAGE = Kind("a language model", "Choose it in GGML Language Model.")
_ANY_LANGUAGE_MODEL = "LLAMA3_8"  # for which core takes all that it does not know
_INNER = "transformer."  # what the names of a text encoder stand behind in a checkpoint


def another_kind(header: WeightFile, wanted: str) -> WeightFileError:
    """The error for a file that does not hold the `wanted` kind of model."""
    kinds = identify(header)
    if kinds:
        held = " with ".join(kind.description for kind in kinds)
        advice = kinds[0].advice if len(kinds) == 1 else "Choose it in GGML Checkpoint."
        return WeightFileError(f"{header.path} seems to be {held}, not {wanted}. {advice}")
    sample = ", ".join(list(header.tensors)[:3])
    architecture = f", architecture {header.architecture!r:.40}" if header.architecture else ""
    return WeightFileError(
        f"{header.path} is not {wanted}, nor any model known here: its {len(header.tensors):,} tensors are called "
        f"{sample:.200} ...{architecture}. Choose another file."
    )


def refuse_adapters(header: WeightFile, wanted: str) -> None:
    """Raise WeightFileError for a file that holds no more than an adapter."""
    if any(_marked(header, ADAPTERS)):
        raise another_kind(header, wanted)


def identify(header: WeightFile) -> tuple[Kind, ...]:
    """The kinds of model in a file: several in a checkpoint, none where nothing is recognised."""
    adapters = tuple(_marked(header, ADAPTERS))
    if adapters:
        return adapters[:1]
    try:
        recording = Recording(header)
    except WeightFileError:  # quantized in a form that is not read
        return ()
    with recording, torch.no_grad():
        found = [
            *(_diffusion_model(header, dict(recording.state_dict)) or ()),
            *(_text_encoders(recording.state_dict) or ()),
        ]
    return (*found, *_marked(header, MARKED))


def encoders_in(tensors: Tensors) -> list[dict[str, Tensor]]:
    """The tensors of each text encoder in a file: all, or those behind the prefixes that checkpoints have."""
    if comfy.sd.detect_te_model(tensors) is not None:
        return [dict(tensors)]
    behind: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        prefix, inner, rest = name.partition(_INNER)
        if inner:
            behind.setdefault(prefix, {})[rest] = tensor
    return [each for each in behind.values() if comfy.sd.detect_te_model(each) is not None]


def _marked(header: WeightFile, kinds: Mapping[Kind, tuple[str, ...]]) -> Iterator[Kind]:
    """The kinds of which a file has a name, behind any prefix."""
    for kind, markers in kinds.items():
        behind = tuple(f".{marker}" for marker in markers)
        if any(name in markers or name.endswith(behind) for name in header.tensors):
            yield kind


def _unless_odd(detect: Callable[..., Result]) -> Callable[..., Result | None]:
    """Core's detection, which knows nothing where it runs into something that it did not expect."""

    def detected(*args: object) -> Result | None:
        try:
            return detect(*args)
        except Exception:  # whatever names and shapes make it raise
            return None

    return detected


@_unless_odd
def _diffusion_model(header: WeightFile, tensors: dict[str, Tensor]) -> list[Kind]:
    detection = comfy.model_detection
    prefix = detection.unet_prefix_from_state_dict(tensors)
    tensors = comfy.utils.state_dict_prefix_replace(dict(tensors), {prefix: ""}, filter_keys=True) or tensors
    config = detection.model_config_from_unet(tensors, "", metadata=header.texts)
    if config is None:  # in diffusers' names
        converted = detection.convert_diffusers_mmdit(dict(tensors), "")
        if converted is not None:
            config = detection.model_config_from_unet(converted, "")
        else:
            config = detection.model_config_from_diffusers_unet(dict(tensors))
    if config is None:
        return []
    return [Kind(f"a diffusion model ({type(config).__name__})", "Choose it in GGML Diffusion Model.")]


@_unless_odd
def _text_encoders(tensors: Tensors) -> list[Kind]:
    if is_llama(tensors):
        tensors = {new: tensors[old] for old, new in names_in_transformers(tensors).items()}
        if not encoders_in(tensors):
            return [LANGUAGE]
    names = [comfy.sd.detect_te_model(each).name for each in encoders_in(tensors)]
    return [
        LANGUAGE
        if name == _ANY_LANGUAGE_MODEL
        else Kind(f"a text encoder ({name})", "Choose it in GGML Text Encoders.")
        for name in names
    ]
