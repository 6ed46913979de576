"""GGML Checkpoint: one file to a MODEL, a CLIP, a VAE and a CLIP vision model, on devices of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from comfy_api.latest import io

from ...native.placement import AUTO, CPU, MIB, RESIDENCIES, Placement
from ...native.weights import WeightFile, WeightFileError, read_header
from ..components.autoencoder_build import autoencoder
from ..components.checkpoint_build import Checkpoint, checkpoint
from ..components.core_loading import CLIP_VISION, placed_core_model
from ..components.core_module import component_parts
from ..components.tile_choice import TileChoice, check_tiles
from .device_inputs import (
    check_device,
    companion_device,
    device_options,
    diffusion_device,
    load_device,
    residency_inputs,
)
from .diffusion import found_model, placed_model
from .files import fingerprint, model_names, model_path
from .found import found, say
from .text_encoders import found_clip, lossy_warnings, place_encoders
from .vae import OVERLAP, found_vae, load_vae, tile_inputs

MODEL, CLIP, VAE = PARTS = ("", "clip_", "vae_")  # the beginnings of the names of each part's inputs


class AbsentPart(WeightFileError, AttributeError):
    """Raised where a part is used that a file does not have; for hasattr it is like any missing attribute."""


class Absent:
    """Stands for a part that a file does not have: whatever uses it says so."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        """Raises AbsentPart."""
        if name.startswith("_"):
            raise AttributeError(name)
        raise AbsentPart(self._message)


def load_checkpoint(
    header: WeightFile, placements: Mapping[str, Placement], tiles: TileChoice,
    sizes: Mapping[str, Any] | None = None, begins: Callable[[str], None] = lambda _part: None,
) -> tuple[tuple[Any, Any, Any, Any], list[str], list[str]]:  # fmt: skip
    """MODEL, CLIP, VAE and CLIP vision model of a file; what was found, and warnings for the user.

    placements: by PARTS. sizes: as build.checkpoint has it. begins: called with a part before it is made.
    Raises WeightFileError when the tensors are of no model that core knows, or not all of it.
    """
    read = checkpoint(header, sizes)
    begins(MODEL)
    model = placed_model(read.model, read.weights, placements[MODEL])
    begins(CLIP)
    clip, of_clip = _clip(read, placements[CLIP])
    vision, of_vision = _vision(read, placements[CLIP])
    begins(VAE)
    vae, of_vae = _vae(read, placements[VAE], tiles)
    lines = [found_model(model), of_clip, of_vae, *of_vision]
    return (model, clip, vae, vision), lines, lossy_warnings(part.weights for part in read.encoders)


def _clip(read: Checkpoint, placement: Placement) -> tuple[Any, str]:
    """The CLIP of a checkpoint, and what it is in words."""
    if read.clip is None:
        absent = f"{read.path} has no text encoder. Choose its text encoders in GGML Text Encoders and connect those."
        return Absent(absent), absent
    place_encoders(read.clip, read.encoders, placement)
    return read.clip, found_clip(read.clip, [part.weights for part in read.encoders])


def _vision(read: Checkpoint, placement: Placement) -> tuple[Any, list[str]]:
    """The CLIP vision model of a checkpoint, and what it is in words; few have one, so that none needs no word."""
    if read.vision is None:
        return Absent(f"{read.path} has no CLIP vision model. Choose it in GGML CLIP Vision and connect that."), []
    device = load_device(placement.device)
    vision = placed_core_model(CLIP_VISION, read.vision, read.recording, placement, device)
    return vision, [
        found(type(part.engine_model.module).__name__, [part.engine_model.file_weights])
        for part in component_parts(vision)
    ]


def _vae(read: Checkpoint, placement: Placement, tiles: TileChoice) -> tuple[Any, str]:
    """The VAE of a checkpoint, and what it is in words."""
    if not read.autoencoder:
        absent = f"{read.path} has no VAE. Choose its VAE in GGML VAE and connect that."
        return Absent(absent), absent
    vae = load_vae(*autoencoder(read.recording, read.autoencoder), placement, tiles)
    return vae, found_vae(vae)


def checkpoint_of(
    ckpt_name: str, device: str, clip_device: str, vae_device: str, weights: str = AUTO, clip_weights: str = AUTO,
    vae_weights: str = AUTO, tiling: str = AUTO, tile_size: int = 0, overlap: int = OVERLAP, budget: int = 0,
    engine: str = AUTO, begins: Callable[[str], None] = lambda _part: None,
) -> tuple[tuple[Any, Any, Any, Any], list[str], list[str]]:  # fmt: skip
    """As load_checkpoint, of the node's inputs."""
    fits = check_tiles(tile_size, overlap)
    if fits is not True:
        raise ValueError(fits)

    def placement(device: str, residency: str) -> Placement:
        return Placement(device, residency, budget * MIB, engine if device == CPU else AUTO)

    placements = {
        MODEL: placement(diffusion_device(device), weights),
        CLIP: placement(companion_device(clip_device), clip_weights),
        VAE: placement(companion_device(vae_device), vae_weights),
    }
    header = read_header(model_path("checkpoints", ckpt_name))
    return load_checkpoint(header, placements, TileChoice(tiling, tile_size, overlap), begins=begins)


class GGMLCheckpoint(io.ComfyNode):
    """The node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="GGMLCheckpoint",
            display_name="GGML Checkpoint",
            category="loaders/GGML",
            description="Loads a diffusion model, its text encoders and its VAE from one GGUF or safetensors file, "
            "each on a device of its own.",
            search_aliases=["GGUF", "Load checkpoint", "SDXL", "SD1.5", "Vulkan", "AMD", "low VRAM", "RX 580"],
            inputs=[
                io.Combo.Input(
                    "ckpt_name", options=model_names("checkpoints"),
                    tooltip="A file in models/checkpoints that holds a whole model, such as those of SD1.5 and SDXL. A "
                    "part that it does not have is loaded by the node for that part.",
                ),
                io.Combo.Input(
                    "device", options=device_options(), default=AUTO,
                    tooltip="Where the diffusion model computes. auto: the first GPU, or the CPU if there is none. "
                    "Change it to use another device; the node GGML Devices lists them.",
                ),
                io.Combo.Input(
                    "clip_device", options=device_options(), default=CPU,
                    tooltip="Where the text encoders compute. auto: the CPU, which leaves the GPU to the diffusion "
                    "model. They are faster on a GPU.",
                ),
                io.Combo.Input(
                    "vae_device", options=device_options(), default=CPU,
                    tooltip="Where pictures, video and sound are decoded and encoded. auto: the CPU, safe with every "
                    "card. A GPU is faster if the tiles fit its memory.",
                ),
                *residency_inputs(
                    io.Combo.Input(
                        "clip_weights", options=list(RESIDENCIES), default=AUTO, optional=True, advanced=True,
                        tooltip="Where the weights of the text encoders are kept, as weights says it of the diffusion "
                        "model's. Leave it on auto unless memory is short.",
                    ),
                    io.Combo.Input(
                        "vae_weights", options=list(RESIDENCIES), default=AUTO, optional=True, advanced=True,
                        tooltip="Where the weights of the VAE are kept, as weights says it of the diffusion model's. "
                        "Leave it on auto unless memory is short.",
                    ),
                    *tile_inputs(optional=True),
                ),
            ],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output(), io.ClipVision.Output()],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    async def validate_inputs(
        cls, device: str, clip_device: str, vae_device: str, tile_size: int = 0, overlap: int = OVERLAP,
        engine: str = AUTO,
    ) -> bool | str:  # fmt: skip
        """Whether this machine has the devices and such tiles can be cut; a linked input is None here."""
        if tile_size is not None and overlap is not None:
            fits = check_tiles(tile_size, overlap)
            if fits is not True:
                return fits
        for name in (device, clip_device, vae_device):
            there = await check_device(name)  # on a GPU `engine` is of no effect here
            if there is not True:
                return there
        return True

    @classmethod
    def fingerprint_inputs(cls, ckpt_name: str, **_: Any) -> Any:
        """Changes with the file."""
        return fingerprint("checkpoints", [ckpt_name])

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        """Reads the header; weights are read when a part first computes."""
        outputs, lines, warnings = checkpoint_of(**inputs)
        say(cls, lines, warnings)
        return io.NodeOutput(*outputs)
