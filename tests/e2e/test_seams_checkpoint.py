"""Whole checkpoints: one file, our loader, prompt to picture; against core's own loader of the same file.

No line of the pack names one of them. Sizes are real where core's detection goes by them, else as small as can be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests import checkpoints
from tests.checkpoints import FLUX_SIZES, SIZES, Tensors
from tests.core_models import relative_error
from tests.pack import part

loader = part("nodes.loaders.checkpoint")
placement = part("native.placement")
tile_choice = part("nodes.components.tile_choice")
weights = part("native.weights")

import comfy.sample  # noqa: E402
import comfy.sd  # noqa: E402

BOUND = 2e-3  # relative L2; with weights in F16 the CPU computes with activations in F16
PROMPT = "a red (square:1.2) and a dog"
F32 = {"dtype": torch.float32}
F8 = torch.float8_e4m3fn


@pytest.fixture
def path(tmp_path: Path) -> Any:
    """Of a file, which is not kept: it is large."""
    yield tmp_path / "whole.safetensors"
    (tmp_path / "whole.safetensors").unlink(missing_ok=True)


def saved(tensors: Tensors, path: Path, matrices: torch.dtype = torch.float16) -> None:
    """A file of these tensors: matrices of that type, the rest in F16."""
    typed = {name: x.to(matrices if x.ndim == 2 else torch.float16) for name, x in tensors.items()}
    save_file({name: x.contiguous() for name, x in typed.items()}, path)


def load(path: Path, sizes: Any = SIZES) -> tuple[tuple[Any, Any, Any], list[str], list[str]]:
    """Our MODEL, CLIP and VAE on the CPU, what was found, and warnings."""
    placements = dict.fromkeys(loader.PARTS, placement.Placement("CPU"))
    return loader.load_checkpoint(weights.read_header(path), placements, tile_choice.TileChoice("off", 0, 64), sizes)


def core_load(path: Path, sizes: Any = SIZES) -> tuple[Any, Any, Any]:
    return comfy.sd.load_checkpoint_guess_config(
        str(path), embedding_directory=[], model_options=F32, te_model_options={**F32, **sizes}
    )[:3]


def encoded(clip: Any, text: str) -> list[torch.Tensor]:
    """The state of a text, and its pooled one where there is one."""
    ((state, more),) = clip.encode_from_tokens_scheduled(clip.tokenize(text))
    return [x for x in (state, more.get("pooled_output")) if x is not None]


def sampled(model: Any, clip: Any) -> torch.Tensor:
    """The latents after one step."""
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (PROMPT, ""))
    empty = torch.zeros(1, model.model.latent_format.latent_channels, 8, 8)
    noise = torch.randn(empty.shape, generator=torch.Generator().manual_seed(1))
    return comfy.sample.sample(
        model, noise, 1, 2.0, "euler", "normal", positive, negative, empty, seed=3, disable_pbar=True
    )


@pytest.mark.parametrize(
    ("build", "sizes", "matrices", "found"),
    [
        (
            checkpoints.sd15,
            SIZES,
            torch.float16,
            ("SD15: 37 M parameters, F16, 70 MiB", "SD1ClipModel", "AutoencoderKL"),
        ),
        (checkpoints.sd21, SIZES, F8, ("SD20: 74 M parameters, F16 and F8_E4M3, 126 MiB", "SD2ClipModel", "TAESD")),
        (
            checkpoints.sdxl,
            SIZES,
            F8,
            ("KOALA_700M: 66 M parameters, F16 and F8_E4M3, 91 MiB", "SDXLClipModel", "TAESD"),
        ),
        (checkpoints.sd3, SIZES, F8, ("SD3: ", "SD3ClipModel", "TAESD")),
        (checkpoints.flux, FLUX_SIZES, torch.float32, ("FluxSchnell: ", "FluxClipModel", "TAESD")),
    ],
    ids=["SD1.5", "SD2.1, its CLIP in open_clip's names", "SDXL's kind", "SD3", "FLUX.1"],
)
def test_draws_as_core(
    path: Path, build: Callable[[], Tensors], sizes: Any, matrices: torch.dtype, found: tuple[str, ...]
) -> None:
    """Prompt, one step and decoding; what both decode are our latents."""
    saved(build(), path, matrices)
    (model, clip, vae), said, warnings = load(path, sizes)
    core_model, core_clip, core_vae = core_load(path, sizes)
    assert type(model.model) is type(core_model.model)
    assert model.model.model_type == core_model.model.model_type
    for ours, cores in zip(encoded(clip, PROMPT), encoded(core_clip, PROMPT), strict=True):
        assert relative_error(ours, cores) <= BOUND
    latents = sampled(model, clip)
    assert relative_error(latents, sampled(core_model, core_clip)) <= BOUND
    with torch.no_grad():
        assert relative_error(vae.decode(latents), core_vae.decode(latents)) <= BOUND
    for line, begins in zip(said, found, strict=True):
        assert line.startswith(begins)
    assert not warnings
