"""Models that find things in pictures, computed by the methods and layers that core's nodes call, against core's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import core_models, narrow
from tests.pack import part
from tests.small_encoders import shrink

from ..parity.model_cases import randomize
from ..templates import files, small_files
from .small_diffusion import Small, sdpose

checkpoint = part("nodes.loaders.checkpoint")
loader = part("nodes.loaders.diffusion")
placement = part("native.placement")
tile_choice = part("nodes.components.tile_choice")
weights = part("native.weights")

import comfy.clip_model  # noqa: E402
import comfy.ldm.sam3.detector as detector  # noqa: E402
import comfy.ldm.sam3.tracker as tracker  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
from comfy.ldm.modules.attention import attention_pytorch  # noqa: E402
from comfy.ldm.rt_detr.rtdetr_v4 import RTv4  # noqa: E402
from comfy_extras.nodes_rtdetr import RTDETR_detect  # noqa: E402
from comfy_extras.nodes_sam3 import SAM3_Detect, SAM3_VideoTrack  # noqa: E402
from comfy_extras.nodes_sdpose import SDPoseKeypointExtractor  # noqa: E402

PLAIN = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}
DEVICES = ("CPU", "Vulkan0")


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures that nodes scale to a size of their own are small."""
    scale = comfy.utils.common_upscale

    def scaled(samples: torch.Tensor, width: int, height: int, *more: Any, **named: Any) -> torch.Tensor:
        return scale(samples, *narrow.small_picture(width, height), *more, **named)

    monkeypatch.setattr(comfy.utils, "common_upscale", scaled)


def pair(tensors: dict[str, torch.Tensor], path: Path, device: str) -> tuple[Any, Any]:
    """Our MODEL of a file, and core's."""
    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, path)
    core = core_models.core_model(tensors)
    with torch.inference_mode():  # as ComfyUI runs nodes
        where = placement.Placement(device, engine="ggml" if device == "CPU" else "auto")
        ours = loader.load_diffusion(weights.read_header(path), where)
    assert type(ours.model) is type(core.model)
    return ours, core


class Encoder:
    """Stands for the VAE: latents of few values."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Four channels, of 8 x 8 pixels each."""
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([small, small.mean(1, keepdim=True)], dim=1)


def numbers(value: Any) -> list[float]:
    """Those in dicts and lists."""
    if isinstance(value, dict):
        return [each for key in sorted(value) for each in numbers(value[key])]
    if isinstance(value, list):
        return [each for item in value for each in numbers(item)]
    return [float(value)] if isinstance(value, int | float | np.number) else []


@pytest.mark.parametrize("device", DEVICES)
def test_poses(device: str, tmp_path: Path) -> None:
    """The head is core's own code, of which the engine computes the layers."""
    small = Small("LotusD", sdpose, other=True)
    with small.detection():
        ours, core = pair(small.tensors(), tmp_path / "model.safetensors", device)
        pictures = torch.rand(2, 96, 72, 3, generator=torch.Generator().manual_seed(5))
        with torch.inference_mode():
            found, expected = (
                numbers(SDPoseKeypointExtractor.execute(model, Encoder(), pictures, 2).result[0])
                for model in (ours, core)
            )
    assert len(found) == len(expected) > 500
    apart = np.abs(np.array(found) - np.array(expected))
    assert np.mean(apart < 0.2) > 0.98  # some maxima of noise are flat, and where they are hangs on the last digit


@pytest.mark.parametrize("device", DEVICES)
def test_boxes(device: str, tmp_path: Path) -> None:
    with narrow.beside_narrowed():
        tensors = randomize(RTv4(enc_h=128, **PLAIN)).state_dict()
        ours, core = pair(dict(tensors), tmp_path / "model.safetensors", device)
    pictures = torch.rand(2, 64, 48, 3, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        found, expected = (RTDETR_detect.execute(model, pictures, 0.0, "all", 20).result[0] for model in (ours, core))
    for ours_of_picture, theirs in zip(found, expected, strict=True):
        ours_rows, rows = (
            np.array([[box[name] for name in _OF_BOX] for box in each]) for each in (ours_of_picture, theirs)
        )
        nearest = np.abs(ours_rows[:, None] - rows).max(-1).min(1)
        assert np.mean(nearest < 0.1) >= 0.9  # among equal scores the order hangs on the last digit


_OF_BOX = ("x", "y", "width", "height", "score")


@pytest.mark.parametrize("device", DEVICES)
def test_words(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of SAM3 and its text encoder, of which core's detection keeps the tensors from one to the other."""
    monkeypatch.setattr(
        detector, "optimized_attention", attention_pytorch
    )  # core's on a GPU, where a mask is no number
    shrink(monkeypatch, lambda _: narrow.encoder_sizes(comfy.clip_model.CLIPTextModel, {}))
    tensors, _ = small_files.small(files.row_of("checkpoints", "sam3.1_multiplex_fp16.safetensors"))
    path = tmp_path / "sam3.safetensors"
    save_file(tensors, path)
    where = placement.Placement(device, engine="ggml" if device == "CPU" else "auto")
    pictures = torch.rand(1, 64, 48, 3, generator=torch.Generator().manual_seed(5))
    with narrow.beside_narrowed(), torch.inference_mode():
        tiles = tile_choice.TileChoice("auto", 0, 64)
        ours, _, _ = checkpoint.load_checkpoint(
            weights.read_header(path), dict.fromkeys(checkpoint.PARTS, where), tiles
        )
        core = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False)
    masks, boxes = [], []
    with torch.inference_mode():
        for model, clip, *_ in (ours, core):
            words = clip.encode_from_tokens_scheduled(clip.tokenize("a guitar"))
            mask, found = SAM3_Detect.execute(model, pictures, words, threshold=0.1, refine_iterations=1).result
            masks.append(mask)
            boxes.append(numbers(found))
    assert 0 < masks[1].mean() < 1
    assert (masks[0] == masks[1]).float().mean() > 0.99
    np.testing.assert_allclose(*boxes, atol=0.1)


@pytest.mark.parametrize("given", ["initial_mask", "conditioning"])
def test_tracks_in_a_video(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of earlier frames is on the host, where core's own code goes from layer to layer."""
    for module in (detector, tracker):
        monkeypatch.setattr(module, "optimized_attention", attention_pytorch)
    with narrow.beside_narrowed():
        tensors = randomize(detector.SAM3Model(image_model="SAM31", **PLAIN)).state_dict()
        ours, core = pair(dict(tensors), tmp_path / "model.safetensors", "CPU")
    source = torch.Generator().manual_seed(5)
    pictures, masks = torch.rand(4, 64, 48, 3, generator=source), torch.rand(2, 64, 48, generator=source) > 0.5
    words = [[torch.randn(1, 9, 1024, generator=source), {}]]
    more = {"initial_mask": masks.float()} if given == "initial_mask" else {"conditioning": words}
    with torch.inference_mode():
        found, expected = (
            SAM3_VideoTrack.execute(pictures, model, detection_threshold=0.4, **more).result[0]
            for model in (ours, core)
        )
    each, theirs = (tracker.unpack_masks(track["packed_masks"]) for track in (found, expected))
    assert each.shape == theirs.shape
    assert 0.01 < theirs.float().mean() < 0.99
    assert (each == theirs).float().mean() > 0.99
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-3)
