"""VAEs by ComfyUI's detection: where each parameter is in the file, and files that hold something else."""

from __future__ import annotations

import json
import math
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import random_models
from tests.pack import part

build = part("nodes.components.autoencoder_build")
recording = part("nodes.components.recording")
weights = part("native.weights")

Tensors = dict[str, torch.Tensor]


def saved(path: Path, tensors: Tensors) -> Any:
    """A recording of a safetensors file of these tensors."""
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return recording.Recording(weights.read_header(path))


def behind(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


def same(found: Any, tensors: Tensors) -> None:
    """Assert that a set of weights holds exactly these tensors, in the file."""
    assert found.parameters.keys() == tensors.keys()
    assert not found.arrays
    for name, parameter in found.parameters.items():
        np.testing.assert_array_equal(weights.read_parameter(parameter), tensors[name].numpy())


def hollow(path: Path, shapes: dict[str, tuple[int, ...]]) -> Any:
    """A recording of a file of F32 zeros that takes no place on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        file.truncate(8 + len(encoded) + end)
    return recording.Recording(weights.read_header(path))


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
def test_a_narrow_vae_alone_and_in_a_checkpoint(tmp_path: Path, prefix: str) -> None:
    tensors = random_models.vae()
    whole = behind(prefix, tensors) | (random_models.t5() if prefix else {})
    vae, found = build.autoencoder(saved(tmp_path / "ae.safetensors", whole))
    same(found, tensors)
    assert all(parameter.is_meta for parameter in vae.first_stage_model.parameters())
    assert (vae.latent_channels, vae.downscale_ratio) == (16, 8)


def test_tensors_that_a_checkpoint_node_has_picked(tmp_path: Path) -> None:
    """As core splits them off a recorded file."""
    tensors = random_models.vae()
    whole = saved(tmp_path / "all.safetensors", behind("model.vae.", tensors))
    picked = {name.removeprefix("model.vae."): value for name, value in whole.state_dict.items()}
    same(build.autoencoder(whole, picked)[1], tensors)


def test_real_width_of_flux_2_takes_no_memory(tmp_path: Path) -> None:
    """Also with its convolutions beside the latents where files have them, which core renames."""
    import comfy.ldm.models.autoencoder

    sizes = {
        "double_z": True, "z_channels": 32, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
        "batch_norm_latent": True,
    }  # fmt: skip
    with build.parameters_without_values():
        module = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=sizes, embed_dim=32)
    shapes = {name: tuple(x.shape) for name, x in module.state_dict().items() if x.ndim}
    inside = {
        name.replace("post_quant_conv.", "decoder.post_quant_conv.").replace("quant_conv.", "encoder.quant_conv.", 1)
        if name.startswith("quant") else name.replace("post_quant", "decoder.post_quant"): shape
        for name, shape in shapes.items()
    }  # fmt: skip
    vae, found = build.autoencoder(hollow(tmp_path / "flux2.safetensors", inside))
    assert found.parameters.keys() == shapes.keys()
    assert (vae.latent_channels, vae.downscale_ratio) == (128, 16)
    assert all(parameter.is_meta for parameter in vae.first_stage_model.parameters())


def test_other_threads_go_on_making_modules_with_values() -> None:
    made: list[torch.nn.Module] = []
    with build.parameters_without_values():
        assert torch.nn.Linear(4, 4).weight.is_meta
        thread = threading.Thread(target=lambda: made.append(torch.nn.Linear(4, 4)))
        thread.start()
        thread.join()
    assert not made[0].weight.is_meta
    assert not torch.nn.Linear(4, 4).weight.is_meta


@pytest.mark.parametrize("missing", ["encoder.conv_out.bias", "decoder.up.1.block.0.norm1.weight"])
def test_a_missing_tensor_is_named(tmp_path: Path, missing: str) -> None:
    tensors = random_models.vae()
    del tensors[missing]
    with pytest.raises(weights.WeightFileError, match=f"ae.safetensors seems to be .* lacks {missing}"):
        build.autoencoder(saved(tmp_path / "ae.safetensors", tensors))


def test_a_tensor_of_another_size_is_named(tmp_path: Path) -> None:
    tensors = random_models.vae() | {"decoder.norm_out.weight": torch.ones(33)}
    with pytest.raises(weights.WeightFileError, match=r"ae.safetensors do not describe .*decoder.norm_out.weight"):
        build.autoencoder(saved(tmp_path / "ae.safetensors", tensors))


FOREIGN: dict[str, tuple[str, Callable[[], Tensors] | str]] = {
    "flux": ("a diffusion model (FluxSchnell)", random_models.flux),
    "t5": ("a text encoder (T5_BASE)", random_models.t5),
    "clip_l": ("a text encoder (CLIP_L)", random_models.clip_l),
    "lora": ("a LoRA", "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"),
    "controlnet": ("a ControlNet", "controlnet_blocks.0.weight"),
    "language": ("a language model", lambda: {"token_embd.weight": torch.ones(4, 4)}),
    "unknown": ("nor any model known here", "a.b"),
}


@pytest.mark.parametrize("foreign", FOREIGN)
def test_another_kind_of_model_is_told_what_it_is(tmp_path: Path, foreign: str) -> None:
    says, tensors = FOREIGN[foreign]
    held = {tensors: torch.ones(4, 4)} if isinstance(tensors, str) else tensors()
    given = saved(tmp_path / "model.safetensors", held)
    with pytest.raises(weights.WeightFileError) as caught:
        build.autoencoder(given)
    assert says in str(caught.value)
    assert str(caught.value).startswith(given.header.path)
