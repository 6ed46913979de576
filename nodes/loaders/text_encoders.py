"""GGML Text Encoders: files of text encoders to the CLIP of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import comfy.sd
import torch
from comfy_api.latest import io

from ...native.placement import AUTO, CPU, MIB, Placement, as_placement
from ...native.weights import WeightFile, WeightSet, read_header
from ..components.encoder import encoder
from ..components.encoder_build import Part, text_encoders
from ..components.patcher import ComponentPatcher
from .device_inputs import check_device, companion_device, device_options, load_device, residency_inputs
from .files import NONE, fingerprint, model_names, model_path, part_names
from .found import found, say

TYPES = (AUTO, "sdxl", *(kind.name.lower() for kind in comfy.sd.CLIPType))  # as core's CLIP loaders name them
LOSSY = ("Q2_", "Q3_", "Q4_", "Q1_", "IQ", "TQ", "MXFP4", "NVFP4")


def lossy(weights: WeightSet) -> str | None:
    """The type most bytes of an encoder are stored in, where it is one that loses the prompt; else None."""
    bytes_by_type: Counter[str] = Counter()
    for parameter in weights.parameters.values():
        bytes_by_type[parameter.stored] += parameter.nbytes
    stored = bytes_by_type.most_common(1)[0][0]
    return stored if stored.startswith(LOSSY) else None


def encoders_of(
    clip_name1: str,
    device: str,
    clip_name2: str = NONE,
    clip_name3: str = NONE,
    weights: str = AUTO,
    budget: int = 0,
    engine: str = AUTO,
    type: str = AUTO,  # noqa: A002  # as the input is called
    clip_name4: str = NONE,
) -> tuple[comfy.sd.CLIP, list[WeightSet]]:
    """The CLIP of the node's inputs, and the weights of each encoder."""
    names = [name for name in (clip_name1, clip_name2, clip_name3, clip_name4) if name != NONE]
    placement = Placement(companion_device(device), weights, budget * MIB, engine)
    headers = [read_header(model_path("text_encoders", name)) for name in names]
    return load_encoders(headers, type, placement)


def found_clip(clip: comfy.sd.CLIP, encoders: Sequence[WeightSet]) -> str:
    """A CLIP in words."""
    return found(type(clip.cond_stage_model).__name__, encoders)


def lossy_warnings(encoders: Iterable[WeightSet]) -> list[str]:
    """Warnings for the user of text encoders that lose the prompt."""
    return [
        f"{encoder.files[0][0]} is stored as {stored}: a text encoder below Q5 loses much of the prompt. "
        "Use Q5_K_M, Q8_0, F16 or FP8."
        for encoder in encoders
        if (stored := lossy(encoder))
    ]


def load_encoders(
    headers: Sequence[WeightFile], model: str, placement: Placement | str, sizes: dict[str, Any] | None = None
) -> tuple[comfy.sd.CLIP, list[WeightSet]]:
    """A CLIP of the encoders that core knows, computed where `placement` says, and the weights of each.

    model: one of TYPES; sdxl is what core takes without one. sizes: as text_encoders has it.
    """
    kind = None if model == AUTO else getattr(comfy.sd.CLIPType, model.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION)
    clip, parts = text_encoders(headers, kind, sizes)
    place_encoders(clip, parts, as_placement(placement))
    return clip, [part.weights for part in parts]


def place_encoders(clip: comfy.sd.CLIP, parts: Iterable[Part], placement: Placement) -> None:
    """Have the modules of core's CLIP computed where `placement` says."""
    for part in parts:
        setattr(part.owner, part.name, encoder(part.core, part.weights, placement, part.owner))
    _patch(clip, load_device(placement.device))


def _patch(clip: comfy.sd.CLIP, device: torch.device) -> None:
    """Give a CLIP the patcher of components."""
    clip.cond_stage_model.device = torch.device("cpu")
    clip.patcher = ComponentPatcher(clip.cond_stage_model, device, torch.device("cpu"))
    clip.patcher.hook_mode = comfy.hooks.EnumHookMode.MinVram
    clip.patcher.is_clip = True


class GGMLTextEncoders(io.ComfyNode):
    """The node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        names = model_names("text_encoders")
        return io.Schema(
            node_id="GGMLTextEncoders",
            display_name="GGML Text Encoders",
            category="loaders/GGML",
            description="Loads the text encoders of any model that ComfyUI knows from GGUF or safetensors files.",
            search_aliases=["GGUF", "CLIP loader", "T5", "DualCLIPLoader", "Vulkan", "AMD", "low VRAM", "RX 580"],
            inputs=[
                io.Combo.Input(
                    "clip_name1", options=names,
                    tooltip="A file with a text encoder, such as T5-XXL or CLIP-L for FLUX.1, in any order. Take Q5 or "
                    "better: below that much of the prompt is lost.",
                ),
                io.Combo.Input(
                    "clip_name2", options=[NONE, *part_names("text_encoders")], default=NONE, optional=True,
                    tooltip="The other encoder, for models that have two, the vision tower (mmproj) of a language "
                    "model in GGUF, or the checkpoint that has the rest of it, as LTX-2's. Leave it on none if the "
                    "first file holds all.",
                ),
                io.Combo.Input(
                    "clip_name3", options=[NONE, *names], default=NONE, optional=True, advanced=True,
                    tooltip="A third encoder, for models that have one, such as SD3. Else leave it on none.",
                ),
                io.Combo.Input(
                    "device", options=device_options(), default=CPU,
                    tooltip="Where the encoders compute. auto: the CPU, which leaves the GPU to the diffusion model. "
                    "They are faster on a GPU.",
                ),
                *residency_inputs(),
                io.Combo.Input(
                    "type", options=list(TYPES), default=AUTO, optional=True,
                    tooltip="Which model the encoders are for, as in ComfyUI's own CLIP loaders. auto: FLUX.1 for T5 "
                    "and CLIP-L, else what ComfyUI takes such a file for. T5 alone needs it, as many models have it.",
                ),
                io.Combo.Input(
                    "clip_name4", options=[NONE, *names], default=NONE, optional=True, advanced=True,
                    tooltip="A fourth encoder, for HiDream, which has CLIP-L, CLIP-G, T5-XXL and Llama"
                    ". Else leave it on none.",
                ),
            ],
            outputs=[io.Clip.Output()],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    async def validate_inputs(cls, device: str, engine: str = AUTO) -> bool | str:
        """Whether this machine has the device."""
        return await check_device(device, engine)

    @classmethod
    def fingerprint_inputs(
        cls, clip_name1: str, clip_name2: str = NONE, clip_name3: str = NONE, clip_name4: str = NONE, **_: Any
    ) -> Any:
        """Changes with the files."""
        return fingerprint("text_encoders", (clip_name1, clip_name2, clip_name3, clip_name4))

    @classmethod
    def execute(
        cls,
        clip_name1: str,
        device: str,
        clip_name2: str = NONE,
        clip_name3: str = NONE,
        weights: str = AUTO,
        budget: int = 0,
        engine: str = AUTO,
        type: str = AUTO,  # noqa: A002
        clip_name4: str = NONE,
    ) -> io.NodeOutput:
        """Reads the headers; weights are read when the first prompt is encoded."""
        clip, held = encoders_of(clip_name1, device, clip_name2, clip_name3, weights, budget, engine, type, clip_name4)
        say(cls, [found_clip(clip, held)], lossy_warnings(held))
        return io.NodeOutput(clip)
