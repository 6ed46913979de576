"""TAESD and its kin in models/vae_approx: small VAEs of video, pairs of files that are one; and the one of no file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import folder_paths
import torch

import nodes as core

from ...native.weights import WeightFile, WeightSet, read_header
from ...native.weights.weight_file import joined
from ..components.autoencoder_build import ComponentVAE, autoencoder
from ..components.recording import Recording

FOLDER = "vae_approx"
HALVES = ("encoder", "decoder")
# Core is told so of FLUX.2's, whose tensors have a quarter of the channels.
CHANNELS = {"taef2": {"tae_latent_channels": 128}}
PIXELS = "pixel_space"  # for models without latents: it has no weights


def small_vae_names() -> list[str]:
    """The VAEs that ComfyUI's own Load VAE offers besides models/vae: pairs by one name, others by their file's."""
    if FOLDER not in folder_paths.folder_names_and_paths:
        return []
    offered = core.VAELoader.INPUT_TYPES()["required"]["vae_name"][0]
    files = folder_paths.get_filename_list(FOLDER)
    return [name for name in offered if name == PIXELS or name in files or len(_halves(name)) == len(HALVES)]


def small_vae_paths(name: str) -> list[str]:
    """The files of what `small_vae_names` listed; none for any other name, and for the one of no file."""
    if name == PIXELS or name not in small_vae_names():
        return []
    return [folder_paths.get_full_path_or_raise(FOLDER, file) for file in _halves(name) or [name]]


def small_vae(name: str) -> tuple[ComponentVAE, WeightSet]:
    """As `autoencoder`, of a name that `small_vae_names` listed. Raises WeightFileError."""
    if name == PIXELS:
        nothing = WeightFile(PIXELS, 0, 0, "safetensors", None, {}, {})
        vae, weights = autoencoder(Recording(nothing), {"pixel_space_vae": torch.tensor(1.0)})
        return vae, replace(weights, files=())
    paths = small_vae_paths(name)
    if len(paths) == 1:
        return autoencoder(Recording(read_header(paths[0])))
    headers = [_part(read_header(path), f"taesd_{half}.") for half, path in zip(HALVES, paths, strict=True)]
    recording = Recording(joined(headers))
    # The scale of the latents is in no file: core has it for each name.
    scale = {key: value for key, value in core.VAELoader.load_taesd(name).items() if key.startswith("vae_")}
    tensors: dict[str, torch.Tensor] = {**recording.state_dict, **scale}
    return autoencoder(recording, tensors, CHANNELS.get(name))


def _halves(name: str) -> list[str]:
    """The files of the encoder and of the decoder, as core looks for them."""
    files = folder_paths.get_filename_list(FOLDER)
    found = [next((file for file in files if file.startswith(f"{name}_{half}.")), "") for half in HALVES]
    return [file for file in found if file]


def _part(header: WeightFile, prefix: str) -> WeightFile:
    """The header with names as those of a part of a model."""
    tensors: dict[str, Any] = {
        prefix + name: replace(tensor, name=prefix + name) for name, tensor in header.tensors.items()
    }
    return replace(header, tensors=tensors)
