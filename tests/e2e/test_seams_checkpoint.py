"""Whole checkpoints: one file, our loader, prompt to picture; against core's own loader of the same file.

No line of the pack names one of them. Sizes are real where core's detection goes by them, else as small as can be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import checkpoints, random_models
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


def load(path: Path, sizes: Any = SIZES) -> tuple[tuple[Any, Any, Any, Any], list[str], list[str]]:
    """Our MODEL, CLIP, VAE and CLIP vision model on the CPU, what was found, and warnings."""
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
    (model, clip, vae, _), said, warnings = load(path, sizes)
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


@pytest.mark.parametrize(
    "marks",
    [
        {"v_pred": torch.empty(0)},
        {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)},
        {"edm_vpred.sigma_max": torch.tensor([120.0]), "edm_vpred.sigma_min": torch.tensor([0.01])},
        {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)},
    ],
    ids=["v_pred", "ztsnr", "edm_vpred", "Playground"],
)
def test_marks_of_a_file_say_how_it_samples(path: Path, marks: Tensors) -> None:
    save_file({**zeros(checkpoints.behind("model.diffusion_model.", checkpoints.koala(empty=True))), **marks}, path)
    (model, *_), _, _ = load(path)
    core_model, _, _ = core_load(path)
    assert model.model.model_type == core_model.model.model_type
    assert type(model.model.latent_format) is type(core_model.model.latent_format)
    torch.testing.assert_close(model.model.model_sampling.sigmas, core_model.model.model_sampling.sigmas)


def zeros(tensors: Tensors) -> Tensors:
    return {name: torch.zeros(x.shape, dtype=F8) for name, x in tensors.items()}


def test_rows_of_one_tensor_stay_in_the_file(path: Path) -> None:
    """Queries, keys and values of open_clip, as the bytes that they are; only what is transposed is computed."""
    tensors = checkpoints.sd21()
    saved(tensors, path, F8)
    _, clip, *_ = load(path)[0]
    held = clip.cond_stage_model.clip_h.transformer.engine_model.file_weights
    assert not held.arrays
    rows = tensors["cond_stage_model.model.transformer.resblocks.1.attn.in_proj_weight"].to(F8).float().chunk(3)
    for part_of, values in zip("qkv", rows, strict=True):
        parameter = held.parameters[f"text_model.encoder.layers.1.self_attn.{part_of}_proj.weight"]
        assert parameter.stored == "F8_E4M3"
        np.testing.assert_array_equal(weights.read_parameter(parameter), values.numpy())


def test_a_part_that_is_absent_says_so_where_it_is_used(path: Path) -> None:
    """Also where the file has a diffusion model alone, in whatever names."""
    for prefix in ("model.diffusion_model.", ""):
        saved(checkpoints.behind(prefix, random_models.flux()), path)
        (model, clip, vae, _), said, _ = load(path)
        assert type(model.model.model_config).__name__ == "FluxSchnell"
        with pytest.raises(weights.WeightFileError, match=r"has no text encoder\. .* GGML Text Encoders"):
            clip.tokenize("a dog")
        with pytest.raises(weights.WeightFileError, match=r"has no VAE\. .* GGML VAE"):
            vae.decode(torch.zeros(1, 16, 8, 8))
        assert not hasattr(clip, "get_ram_usage")
        assert said[1:] == [str(absent) for absent in (error(clip), error(vae))]


def error(absent: Any) -> Exception:
    """The error of an absent part."""
    with pytest.raises(weights.WeightFileError) as caught:
        _ = absent.patcher
    return caught.value


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: {"lora_unet_x.lora_down.weight": torch.ones(4, 8), "lora_unet_x.lora_up.weight": torch.ones(8, 4)},
         "seems to be a LoRA, not a checkpoint. Choose it in Load LoRA"),
        (random_models.t5, "seems to be a text encoder .T5_BASE., not a .*. Choose it in GGML Text Encoders"),
        (random_models.clip_l, "seems to be a text encoder .CLIP_L., not a .*. Choose it in GGML Text Encoders"),
        (random_models.vae, "seems to be a VAE, not a checkpoint. Choose it in GGML VAE"),
        (lambda: {"some.tensor": torch.ones(4, 8)}, "whole.safetensors is not a"),
        (lambda: {name: x for name, x in checkpoints.flux().items() if ".double_blocks.0." not in name},
         "whole.safetensors"),
        (lambda: {name: x for name, x in checkpoints.flux().items() if ".block.1.layer.1." not in name},
         "seems to be a T5 .* but lacks"),
    ],
    ids=["LoRA", "T5", "CLIP", "VAE", "unknown", "no first block", "half of a layer of T5"],
)  # fmt: skip
def test_other_files_are_refused_with_the_way_out(path: Path, build: Callable[[], Tensors], message: str) -> None:
    saved(build(), path)
    with pytest.raises(weights.WeightFileError, match=message):
        load(path, FLUX_SIZES)


def test_a_truncated_file_is_named(path: Path) -> None:
    saved(checkpoints.flux(), path)
    whole = path.read_bytes()
    for nbytes in (4, 1000, len(whole) - 1):
        path.write_bytes(whole[:nbytes])
        with pytest.raises(weights.WeightFileError, match="whole.safetensors"):
            load(path, FLUX_SIZES)


def test_gguf(path: Path) -> None:
    """A checkpoint in GGUF has the same values."""
    tensors = checkpoints.flux()
    saved(tensors, path, torch.float32)
    expected = sampled(*load(path, FLUX_SIZES)[0][:2])
    in_gguf = random_models.write_gguf(path.with_suffix(".gguf"), "checkpoint", tensors, np.float32)
    (model, clip, *_), said, _ = load(in_gguf, FLUX_SIZES)
    assert relative_error(sampled(model, clip), expected) <= BOUND
    assert [line.partition(":")[0] for line in said] == ["FluxSchnell", "FluxClipModel_", "TAESD"]
