"""Diffusion models of many families: a file in core's names, our loader, core's sampling; against core's own loader.

No line of the pack names one of them. The small files are built to be what core's detection makes of them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import core_models
from tests.pack import part

loader = part("nodes.loaders.diffusion")
build = part("nodes.components.build")
weights = part("native.weights")

import comfy.model_detection  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sample  # noqa: E402

from ..parity.families.cases import CASES  # noqa: E402
from ..parity.model_cases import randomize  # noqa: E402

NAMES = (
    "Flux dev", "Flux Fill (384 channels)", "Flux.2", "LongCat image", "SD3", "SD3.5 large (qk rms)",
    "SD3.5 medium (x self attention)", "HunyuanImage 2.1", "HunyuanImage 2.1 distilled (meanflow)", "JoyImage",
    "HunyuanVideo", "Kandinsky 5 video", "CogVideoX 5B (rotary)", "CogVideoX 1.5 i2v", "LTX-Video", "Wan 2.1 t2v",
    "Wan 2.1 i2v", "Wan 2.1 Fun control (ref conv)", "Wan 2.1 VACE", "Wan 2.1 Camera", "Wan 2.2 14B (36 channels)",
    "Wan 2.2 5B", "Wan 2.1 HuMo", "Wan 2.1 SCAIL", "Wan 2.2 Animate", "Wan 2.2 S2V", "Wan 2.2 WanDancer",
    "Hunyuan3D 2.0",
)  # fmt: skip
ON_VULKAN = ("SD3", "HunyuanVideo", "Wan 2.2 5B")
BOUND = 1e-3  # relative L2 after two steps; GELU's table decides it on the CPU
BY_NAME = {case.name: case for case in CASES}
LATENTS = {1: (24,), 2: (8, 12), 3: (2, 8, 12)}
SHAPES = re.compile(r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)")


def detected(name: str) -> dict[str, torch.Tensor]:
    """A state dict of the family, of the sizes that core's detection reads out of it."""
    shapes = {key: tuple(value.shape) for key, value in BY_NAME[name].build().state_dict().items()}
    for _ in range(3):
        module = _built(shapes, build.MetaOperations)
        found = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        if found == shapes:
            return {key: value.clone() for key, value in randomize(_built(shapes, None)).state_dict().items()}
        shapes = found
    raise AssertionError(f"core does not build {name} of the sizes that it finds")


def _built(shapes: dict[str, tuple[int, ...]], operations: Any) -> torch.nn.Module:
    tensors = {key: torch.empty(shape, device="cpu" if len(shape) < 2 else "meta") for key, shape in shapes.items()}
    config = comfy.model_detection.model_config_from_unet(tensors, "")
    config.custom_operations = operations or comfy.ops.disable_weight_init
    config.set_inference_dtype(torch.float32, None)
    return config.get_model(tensors, "").diffusion_model


def sampled(patcher: Any, width: int, pooled: int) -> torch.Tensor:
    """Two steps of Euler, with text of `width` and `pooled` channels."""
    latents = patcher.model.latent_format
    source = torch.Generator().manual_seed(1)
    noise = torch.randn(1, latents.latent_channels, *LATENTS[latents.latent_dimensions], generator=source)
    text = torch.randn(1, 9, width, generator=source)
    more = {"pooled_output": torch.randn(1, pooled, generator=source), "attention_mask": torch.ones(1, 9)}
    conditioning = [[text, more]]
    return comfy.sample.sample(
        patcher, noise, 2, 1.0, "euler", "simple", conditioning, conditioning, torch.zeros_like(noise), seed=3,
        disable_pbar=True,
    )  # fmt: skip


def widths(patcher: Any) -> tuple[int, int]:
    """The channels of text and of pooled text that a model takes, found by trying."""
    width, pooled = 48, 32
    for _ in range(4):
        try:
            sampled(patcher, width, pooled)
        except RuntimeError as error:
            given, needed = map(int, re.findall(SHAPES, str(error))[0])
            width, pooled = (needed, pooled) if given == width else (width, needed)
        else:
            return width, pooled
    raise AssertionError("no widths of text fit")


def compared(name: str, path: Path, device: str) -> tuple[Any, float]:
    """Our model of a family, and how far it is from core's."""
    tensors = detected(name)
    save_file(tensors, path)
    core = core_models.core_model(tensors)
    given = widths(core)
    expected = sampled(core, *given)
    ours = loader.load_diffusion(weights.read_header(path), device)
    result = sampled(ours, *given)
    assert type(ours.model) is type(core.model)
    return ours, float((result - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", NAMES)
def test_loads_and_samples_as_core(tmp_path: Path, name: str) -> None:
    ours, error = compared(name, tmp_path / "model.safetensors", "CPU")
    assert error <= BOUND
    assert ours.model.diffusion_model.engine_model.placement.device == "CPU"


@pytest.mark.parametrize("name", ON_VULKAN)
def test_loads_and_samples_on_vulkan(tmp_path: Path, name: str) -> None:
    assert compared(name, tmp_path / "model.safetensors", "Vulkan0")[1] <= BOUND
