"""GGML Move: models that core has loaded in torch, computed by GGML with weights sent from their memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests import core_models, random_models
from tests.pack import part

from .any_diffusion import SMALL
from .core_model_kinds import UPSCALERS
from .test_seams_any_diffusion import sampled
from .test_seams_core_models import compute, node, result_of, written

move = part("nodes.loaders.move")
memory = part("nodes.components.memory_weights")
diffusion = part("nodes.loaders.diffusion")
autoencoder = part("nodes.components.autoencoder")

import comfy.sd  # noqa: E402

import nodes as core_nodes  # noqa: E402

BOUND = 1e-3
FLUX = next(small for small in SMALL if small.kind == "Flux")


def moved(value: Any, device: str = "CPU") -> Any:
    with torch.inference_mode():
        return move.GGMLMove.execute(value, device, engine="ggml" if device == "CPU" else "auto").result[0]


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return core_models.relative_error(found.float(), expected.float())


@pytest.mark.parametrize("device", ["CPU", "Vulkan0"])
def test_a_diffusion_model_with_a_lora(device: str) -> None:
    with FLUX.detection():
        core = core_models.core_model(FLUX.tensors())
    key = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    before = core.model.state_dict()[key].clone()
    rows, columns = before.shape
    source = torch.Generator().manual_seed(9)
    up, down = torch.randn(rows, 4, generator=source), torch.randn(4, columns, generator=source)
    adapter = part("nodes.components.lora").LoRAAdapter({key}, (up, down, 4.0, None, None, None))
    patched = core.clone()
    assert patched.add_patches({key: adapter}, 0.3)
    expected, plain = sampled(patched, FLUX), sampled(core, FLUX)
    sampled(patched, FLUX)  # its weights are changed in place, and put back
    ours = moved(patched, device)
    engine_model = ours.model.diffusion_model.engine_model
    assert engine_model.placement.device == device
    sent = engine_model.file_weights.arrays[key.removeprefix("diffusion_model.")]
    assert torch.equal(torch.from_numpy(sent), before)  # so that the LoRA counts once
    assert apart(plain, expected) > 10 * BOUND
    assert apart(sampled(ours, FLUX), expected) <= BOUND
    assert apart(sampled(core, FLUX), plain) == 0  # what was given is as it was


@pytest.mark.parametrize("engine", ["ggml", "torch"])
def test_a_diffusion_model_in_bf16(engine: str) -> None:
    """It takes no more than it did: its matrices are sent as they are."""
    tensors = {name: x.bfloat16() for name, x in FLUX.tensors().items()}
    with FLUX.detection():
        core = core_models.core_model({name: x.float() for name, x in tensors.items()})
        half = comfy.sd.load_diffusion_model_state_dict(dict(tensors), model_options={"dtype": torch.bfloat16})
    with torch.inference_mode():
        ours = move.GGMLMove.execute(half, "CPU", engine=engine).result[0]
    arrays = ours.model.diffusion_model.engine_model.file_weights.arrays
    assert sum(array.nbytes for array in arrays.values()) <= 1.1 * sum(x.nbytes for x in tensors.values())
    # Activations are BF16 in ggml's products, and in torch's on processors that have instructions for these.
    assert apart(sampled(ours, FLUX), sampled(core, FLUX)) <= 5 * BOUND


@pytest.mark.parametrize("device", ["CPU", "Vulkan0"])
def test_text_encoders(device: str) -> None:
    core = core_models.core_clip(random_models.t5(), random_models.clip_l())
    text = "a (red:1.3) circle"
    with torch.inference_mode():
        ours = moved(core, device)
        (expected, more), (found, ours_more) = (
            core_nodes.CLIPTextEncode().encode(each, text)[0][0] for each in (core, ours)
        )
    bound = BOUND if device == "CPU" else 2 * BOUND  # keys and values are F16 there
    assert apart(found, expected) <= bound
    assert apart(ours_more["pooled_output"], more["pooled_output"]) <= bound


@pytest.mark.parametrize("device", ["CPU", "Vulkan0"])
def test_a_vae(device: str) -> None:
    core = core_models.core_vae(random_models.vae())
    latents = torch.randn(1, 16, 4, 6, generator=torch.Generator().manual_seed(5))
    pixels = torch.rand(1, 32, 48, 3, generator=torch.Generator().manual_seed(6))
    with torch.inference_mode():
        ours = moved(core, device)
        assert isinstance(ours.first_stage_model, autoencoder.VAEModule)
        assert apart(ours.decode(latents), core.decode(latents)) <= BOUND
        assert apart(ours.encode(pixels), core.encode(pixels)) <= BOUND


def test_an_upscaler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = written(UPSCALERS[0], tmp_path, monkeypatch)
    core = result_of(node(UPSCALERS[0].core).execute(name))
    expected = compute(UPSCALERS[0], core)
    assert apart(compute(UPSCALERS[0], moved(core)), expected) <= BOUND
    assert next(core.model.parameters()).device.type == "cpu"
    assert apart(compute(UPSCALERS[0], core), expected) == 0


def test_what_cannot_be_moved_is_named() -> None:
    with pytest.raises(memory.NotInMemory, match="was given a dict"):
        moved({"samples": torch.zeros(1)})
    with FLUX.detection():
        ours = moved(core_models.core_model(FLUX.tensors()))
    with pytest.raises(memory.NotInMemory, match="GGML computes already"):
        moved(ours)
