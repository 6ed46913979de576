"""Diffusion models in diffusers' names: of real size nothing is converted in memory; of small size, as core samples."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import core_models, random_models
from tests.pack import part

loader = part("nodes.loaders.diffusion")
build = part("nodes.components.build")
weights = part("native.weights")

import comfy.ldm.aura.mmdit  # noqa: E402
import comfy.ldm.flux.model  # noqa: E402
import comfy.ldm.lumina.model  # noqa: E402
import comfy.ldm.modules.diffusionmodules.mmdit  # noqa: E402
import comfy.utils  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402

from ..bench.real_size_files import FLUX_SCHNELL  # noqa: E402
from .small_diffusion import Small  # noqa: E402
from .test_seams_any_diffusion import sampled  # noqa: E402

Names = dict[str, Any]  # diffusers' to core's: a name, or a name, a window (dimension, start, length) and a function
FLUX = Small("Flux", dict, text=random_models.FLUX["context_in_dim"], pooled=random_models.FLUX["vec_in_dim"])
SDXL = {
    "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10, "context_dim": 2048, "adm_in_channels": 2816, "num_classes": "sequential",
    "num_head_channels": 64, "use_linear_in_transformer": True, "use_spatial_transformer": True, "legacy": False,
    "image_size": 32,
}  # fmt: skip
SD3 = {
    "input_size": None, "pos_embed_scaling_factor": None, "pos_embed_max_size": 192, "patch_size": 2, "depth": 24,
    "in_channels": 16, "num_blocks": 24, "adm_in_channels": 2048,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
}  # fmt: skip
Z_IMAGE = {
    "patch_size": 2, "in_channels": 16, "dim": 3840, "n_layers": 30, "n_refiner_layers": 2, "n_heads": 30,
    "n_kv_heads": 30, "multiple_of": 256, "qk_norm": True, "cap_feat_dim": 2560, "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True,
    "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
AURA_FLOW = {"n_layers": 36, "n_double_layers": 4, "n_heads": 12, "cond_seq_dim": 2048, "max_seq": 9216, "dim": 3072}


def _flux(depth: int, single: int, hidden: int) -> Names:
    config = {"depth": depth, "depth_single_blocks": single, "hidden_size": hidden}
    found = comfy.utils.flux_to_diffusers(config, output_prefix="")
    return {name: ours for name, ours in found.items() if "to_qkv_mlp_proj" not in name}  # another variant's


def _sdxl() -> Names:
    """In order, as core has two names for the same in a set."""
    return dict(sorted(comfy.utils.unet_to_diffusers(dict(SDXL)).items()))


REAL: dict[str, tuple[Any, dict[str, Any], Callable[[], Names], int]] = {  # and parameters of several runs
    "FLUX.1": (comfy.ldm.flux.model.Flux, FLUX_SCHNELL, lambda: _flux(19, 38, 3072), 154),
    "SD3": (comfy.ldm.modules.diffusionmodules.mmdit.MMDiT, SD3, lambda: comfy.utils.mmdit_to_diffusers(SD3), 100),
    "AuraFlow": (comfy.ldm.aura.mmdit.MMDiT, AURA_FLOW, lambda: comfy.utils.auraflow_to_diffusers(AURA_FLOW), 1),
    "Z-Image": (comfy.ldm.lumina.model.NextDiT, Z_IMAGE, lambda: comfy.utils.z_image_to_diffusers(Z_IMAGE), 34),
    "SDXL": (UNetModel, SDXL, _sdxl, 0),
}


def windows(names: Names, known: Any) -> dict[str, tuple[str, Any, Any]]:
    """The tensors of a file in diffusers' names: core's name, window and function, one for each that is known."""
    found, taken = {}, set()
    for name, ours in names.items():
        key, window = (ours, None) if isinstance(ours, str) else ours[:2]
        if key in known and (key, window) not in taken:
            taken.add((key, window))
            found[name] = key, window, ours[2] if len(ours) == 3 and not isinstance(ours, str) else None
    assert {key for key, _, _ in found.values()} == set(known)
    return found


def hollow(path: Path, shapes: dict[str, tuple[int, ...]]) -> Any:
    """The header of a file of F16 zeros that take no room on the disk, in the order of names as diffusers saves."""
    header, end = {}, 0
    for name, shape in sorted(shapes.items()):
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return weights.read_header(str(path))


@pytest.mark.parametrize("name", REAL)
def test_nothing_of_real_size_is_kept_in_memory(tmp_path: Path, name: str) -> None:
    kind, config, names, several = REAL[name]
    module = kind(dtype=torch.float32, device="meta", operations=build.MetaOperations, **config)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items() if value.numel()}
    theirs = {}
    for key, (ours, window, _) in windows(names(), shapes).items():
        shape = list(shapes[ours])
        if window is not None:
            shape[window[0]] = window[2]
        theirs[key] = tuple(shape)
    _, found = build.diffusion_model(hollow(tmp_path / "model.safetensors", theirs))
    assert {key: shape for key, (shape, _) in found.shapes().items()} == shapes
    assert not found.arrays
    assert sum(len(held.runs) > 1 for held in found.parameters.values()) == several
    assert {held.type for held in found.parameters.values()} <= {"F16", "F32"}


@pytest.mark.parametrize("device", ["CPU", "Vulkan0"])
def test_samples_as_core(tmp_path: Path, device: str) -> None:
    tensors = random_models.flux()
    theirs = {}
    for name, (key, window, function) in windows(_flux(2, 2, 256), tensors).items():
        piece = tensors[key] if window is None else tensors[key].narrow(*window)
        theirs[name] = (function(piece) if function else piece).clone()
    save_file(theirs, tmp_path / "diffusers.safetensors")
    expected = sampled(core_models.core_model(theirs), FLUX)
    ours = loader.load_diffusion(weights.read_header(tmp_path / "diffusers.safetensors"), device)
    assert not ours.model.diffusion_model.engine_model.file_weights.arrays
    assert core_models.relative_error(sampled(ours, FLUX), expected) <= 1e-3
