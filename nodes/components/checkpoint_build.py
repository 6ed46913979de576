"""The models of a checkpoint, built by ComfyUI's own detection from the header of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.clip_vision
import comfy.model_base
import comfy.model_detection
import comfy.sd
import comfy.utils
import folder_paths
import torch
from torch import Tensor

from ...native.weights import WeightFile, WeightSet
from .build import described, diffusion_model, diffusion_weights, parameters_without_values
from .component import MetaOperations
from .core_function import with_names
from .encoder_build import Part, encoder_options, parts_of
from .encoder_sizes import options_of
from .identify import encoders_in, refuse_adapters
from .recording import Recording


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Core's models of one file, without values."""

    recording: Recording
    model: comfy.model_base.BaseModel
    weights: WeightSet  # of the diffusion model
    clip: comfy.sd.CLIP | None  # None: the file has no text encoder
    encoders: list[Part]
    autoencoder: Mapping[str, Tensor]  # as comfy.sd.VAE takes it; {}: the file has none
    vision: Any = None  # a comfy.clip_vision.ClipVisionModel; None: the file has none

    @property
    def path(self) -> str:
        """The file."""
        return self.recording.header.path


@torch.inference_mode(False)  # ComfyUI runs nodes in it, and what is made in it cannot be traced
def checkpoint(header: WeightFile, sizes: Mapping[str, Any] | None = None) -> Checkpoint:
    """The models of a checkpoint, as comfy.sd.load_checkpoint_guess_config finds them; of a diffusion model just that.

    sizes: as text_encoders has it. Raises WeightFileError where core does not know the model, or the file lacks some.
    """
    refuse_adapters(header, "a checkpoint")
    recording, texts = Recording(header), header.texts
    tensors = dict(recording.state_dict)
    with described(header, "checkpoint"), recording, torch.no_grad():
        prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
        config = comfy.model_detection.model_config_from_unet(tensors, prefix, metadata=texts)
        if config is not None:
            of_file = {key: found for each in encoders_in(tensors) for key, found in options_of(each).items()}
            config.custom_operations = MetaOperations
            config.set_inference_dtype(torch.float32, None)
            # load_state_dict_guess_config would make it on the GPU that torch has, and load it there.
            model = config.get_model(tensors, prefix)
            model.load_model_weights(tensors, prefix)
            vae = comfy.utils.state_dict_prefix_replace(tensors, dict.fromkeys(config.vae_key_prefix, ""), True)
            vae = config.process_vae_state_dict(vae)
            vision = _vision(config.clip_vision_prefix, dict(recording.state_dict))
            # Where what is kept for the text encoder, as SAM3's names are, is with the configuration.
            guess = with_names(
                comfy.sd.load_state_dict_guess_config,
                {"comfy.model_detection.model_config_from_unet": lambda *_, **__: config},
            )
            _, clip, _, _ = guess(
                dict(recording.state_dict), output_vae=False, output_model=False, metadata=texts, disable_dynamic=True,
                model_options={"dtype": torch.float32, "custom_operations": MetaOperations},
                te_model_options=encoder_options({**of_file, **(sizes or {})}),
                embedding_directory=folder_paths.get_folder_paths("embeddings"),
            )  # fmt: skip
    if config is None:
        return Checkpoint(recording, *diffusion_model(header, "a checkpoint"), None, [], {})
    weights = diffusion_weights(model, recording, prefix)
    encoders = [] if clip is None else list(parts_of(clip.cond_stage_model, [recording]))
    return Checkpoint(recording, model, weights, clip, encoders, vae, vision)


def _vision(prefix: str | None, tensors: dict[str, Tensor]) -> Any:
    """Core's CLIP vision model of the tensors behind a prefix; None where there are none."""
    if not prefix or not any(name.startswith(prefix) for name in tensors):
        return None
    with parameters_without_values():
        return comfy.clip_vision.load_clipvision_from_sd(tensors, prefix, True)
