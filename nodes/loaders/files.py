"""Finds model files in ComfyUI's folders, with keys of our own for `.gguf` files, and names damaged ones in errors.

`unet_gguf` and `clip_gguf` are the keys other packs use for the same files; what they registered is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import folder_paths

from ...native.weights.weight_file import shard_paths

GGUF_FOLDERS = {
    "diffusion_models": "unet_gguf", "text_encoders": "clip_gguf", "vae": "vae_gguf", "checkpoints": "checkpoints_gguf",
    "LLM": "llm_gguf", "controlnet": "controlnet_gguf", "clip_vision": "clip_vision_gguf",
    "upscale_models": "upscale_models_gguf", "latent_upscale_models": "latent_upscale_models_gguf",
    "model_patches": "model_patches_gguf", "audio_encoders": "audio_encoders_gguf",
    "background_removal": "background_removal_gguf", "geometry_estimation": "geometry_estimation_gguf",
    "frame_interpolation": "frame_interpolation_gguf", "optical_flow": "optical_flow_gguf",
}  # fmt: skip
LANGUAGE_MODELS, PROJECTOR = "LLM", "mmproj"  # a folder key, and what is in the names of vision projectors
CHECKPOINTS, OF_CHECKPOINTS = "checkpoints", ("text_encoders", "vae")  # what a checkpoint may hold besides
SAFETENSORS = (".safetensors", ".sft")
NONE = "none"  # a file input that is left empty


def register_folders() -> None:
    """Add the `.gguf` keys to ComfyUI's folder table; no list or set that is already there is changed."""
    table = folder_paths.folder_names_and_paths
    table.setdefault(LANGUAGE_MODELS, ([os.path.join(folder_paths.models_dir, LANGUAGE_MODELS)], {".gguf"}))
    for folder, key in GGUF_FOLDERS.items():
        if folder not in table:  # of a newer ComfyUI
            continue
        shared = table[folder][0]  # the same list, so that folders added to it later count here too
        paths, extensions = table.get(key, (shared, set()))
        if any(path not in paths for path in shared):
            paths = [*paths, *(path for path in shared if path not in paths)]
        table[key] = (paths, {*extensions, ".gguf"})


def model_names(folder: str) -> list[str]:
    """The files of a folder that a loader can offer: GGUF first, then safetensors."""
    plain = [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(SAFETENSORS)]
    return [*folder_paths.get_filename_list(GGUF_FOLDERS[folder]), *plain]


def part_names(folder: str) -> list[str]:
    """As model_names, and behind them the checkpoints that hold such a model among others."""
    own = model_names(folder)
    return [*own, *(name for name in model_names(CHECKPOINTS) if name not in own)]


def language_model_names() -> list[str]:
    """The GGUF files of language models."""
    return [name for name in folder_paths.get_filename_list(GGUF_FOLDERS[LANGUAGE_MODELS]) if not _projects(name)]


def projector_names() -> list[str]:
    """The GGUF files by which language models see, as llama.cpp's converter names them."""
    return [name for name in folder_paths.get_filename_list(GGUF_FOLDERS[LANGUAGE_MODELS]) if _projects(name)]


def _projects(name: str) -> bool:
    return PROJECTOR in os.path.basename(name).lower()


def model_path(folder: str, name: str) -> str:
    """The full path of what `model_names` or `part_names` listed; raises FileNotFoundError when it is gone."""
    folders = (folder, CHECKPOINTS) if folder in OF_CHECKPOINTS else (folder,)
    keys = [GGUF_FOLDERS[each] if name.lower().endswith(".gguf") else each for each in folders]
    path = next(filter(None, (folder_paths.get_full_path(key, name) for key in keys)), None)
    if path is None:
        searched = ", ".join(path for key in keys for path in folder_paths.get_folder_paths(key))
        raise FileNotFoundError(
            f"The model file {name:.300} is not in any of the folders searched for it ({searched}). "
            "Put it there, or choose another file and press R to refresh the list."
        )
    return path


def fingerprint(folder: str, names: Iterable[str]) -> list[tuple[str, int, int]]:
    """A value that changes when one of these files does: path, bytes and modification time (ns) of each."""
    found = []
    for name in names:
        if name != NONE:
            path = model_path(folder, name)
            for part in filter(os.path.exists, shard_paths(path) or [path]):
                now = os.stat(part)
                found.append((part, now.st_size, now.st_mtime_ns))
    return found
