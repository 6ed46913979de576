"""LoRAs through core's loader: the same picture and the same embeddings as core's patched weights give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import random_models
from tests.core_models import core_clip, core_model, psnr, relative_error
from tests.pack import part

diffusion = part("nodes.loaders.diffusion")
encoders = part("nodes.loaders.text_encoders")
lora_module = part("nodes.components.lora")
weights = part("native.weights")

import comfy.hooks  # noqa: E402
import comfy.sd  # noqa: E402

import nodes as core_nodes  # noqa: E402

Lora = dict[str, Tensor]
HIDDEN = random_models.FLUX["hidden_size"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Our MODEL and core's."""
    tensors = random_models.flux()
    path = random_models.write_gguf(tmp_path_factory.mktemp("lora") / "flux.gguf", "flux", tensors)
    return diffusion.load_diffusion(weights.read_header(path), "CPU"), core_model(tensors)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Our CLIP and core's, with F32 weights."""
    folder = tmp_path_factory.mktemp("clips")
    t5, clip_l = random_models.t5(), random_models.clip_l()
    paths = [
        random_models.write_gguf(folder / "t5.gguf", "t5", t5, np.float32),
        random_models.write_safetensors(folder / "clip_l.safetensors", clip_l, torch.float32),
    ]
    headers = [weights.read_header(path) for path in paths]
    return encoders.load_encoders(headers, "flux", "CPU")[0], core_clip(t5, clip_l)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def pair(rank: int, rows: int, columns: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(rows, rank, generator=generator), torch.randn(rank, columns, generator=generator)
    return up / rank**0.5, down / columns**0.5


def kohya() -> Lora:
    """A LoRA as sd-scripts writes it: whole weights, with alpha."""
    shapes = {
        "double_blocks_0_img_attn_proj": (HIDDEN, HIDDEN),
        "double_blocks_1_txt_mlp_0": (4 * HIDDEN, HIDDEN),
        "single_blocks_0_linear2": (HIDDEN, 5 * HIDDEN),
        "single_blocks_1_modulation_lin": (3 * HIDDEN, HIDDEN),
    }
    found: Lora = {}
    for seed, (name, (rows, columns)) in enumerate(shapes.items()):
        up, down = pair(4, rows, columns, seed)
        found |= {f"lora_unet_{name}.lora_up.weight": up, f"lora_unet_{name}.lora_down.weight": down}
        found[f"lora_unet_{name}.alpha"] = torch.tensor(2.0)
    return found


def diffusers() -> Lora:
    """A LoRA as diffusers and PEFT write it: q, k and v apart, each a part of one fused weight here."""
    found: Lora = {}
    shapes = {"attn.to_q": (HIDDEN, HIDDEN), "attn.to_k": (HIDDEN, HIDDEN), "attn.to_v": (HIDDEN, HIDDEN)}
    for block in ("transformer.transformer_blocks.0", "transformer.single_transformer_blocks.1"):
        more = {"proj_mlp": (4 * HIDDEN, HIDDEN)} if "single" in block else {}
        for seed, (name, (rows, columns)) in enumerate((shapes | more).items()):
            up, down = pair(3 + seed, rows, columns, seed)
            found |= {f"{block}.{name}.lora_B.weight": up, f"{block}.{name}.lora_A.weight": down}
    return found


def encoder_lora() -> Lora:
    width, t5 = random_models.CLIP_WIDTH, random_models.T5
    shapes = {
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (width, width),
        "lora_te1_text_model_encoder_layers_2_mlp_fc1": (random_models.CLIP["intermediate_size"], width),
        "lora_te2_encoder_block_1_layer_0_SelfAttention_v": (t5["d_kv"] * t5["num_heads"], t5["d_model"]),
    }
    found: Lora = {
        "text_encoders.clip_l.transformer.text_model.final_layer_norm.diff": 0.3 * torch.randn(width),
        "text_encoders.t5xxl.transformer.encoder.block.0.layer.1.DenseReluDense.wo.diff": 0.1
        * torch.randn(t5["d_model"], t5["d_ff"]),
    }
    for seed, (name, (rows, columns)) in enumerate(shapes.items()):
        up, down = pair(4, rows, columns, seed)
        found |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": torch.tensor(4.0)}
    return found


def tables_lora() -> Lora:
    """Changes of what this process reads itself: tokens, and the projection of the pooled state."""
    width = random_models.CLIP_WIDTH
    tokens = torch.randn(49408, width, generator=torch.Generator().manual_seed(4))
    up, down = pair(4, width, width, 5)
    projection = "text_encoders.clip_l.transformer.text_projection"
    return {
        "text_encoders.clip_l.transformer.text_model.embeddings.token_embedding.diff": 0.3 * tokens,
        f"{projection}.lora_up.weight": up, f"{projection}.lora_down.weight": down,
    }  # fmt: skip


def sample(model: Any, steps: int = 2, **options: Any) -> Tensor:
    def conditioning(seed: int, **values: Any) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        pooled = torch.randn(1, random_models.CLIP_WIDTH, generator=generator)
        return [[torch.randn(1, 20, random_models.T5_WIDTH, generator=generator), {"pooled_output": pooled, **values}]]

    latent = {"samples": torch.zeros(1, 16, 16, 12)}
    positive, negative = conditioning(1, **options), conditioning(2)
    (result,) = core_nodes.common_ksampler(model, 7, steps, 1.0, "euler", "simple", positive, negative, latent)
    return result["samples"]


@pytest.mark.parametrize("lora", [kohya(), diffusers(), kohya() | diffusers()], ids=["kohya", "diffusers", "both"])
def test_picture_equals_that_of_patched_weights(models: tuple[Any, Any], lora: Lora) -> None:
    ours, core = (comfy.sd.load_lora_for_models(model, None, lora, 0.8, 0.0)[0] for model in models)
    with_lora = sample(ours)
    assert psnr(with_lora, sample(core)) >= 60
    assert psnr(with_lora, sample(models[0])) < 40


def test_two_loras_on_one_weight_and_back_to_none(models: tuple[Any, Any]) -> None:
    plain = sample(models[0])
    stacked = list(models)
    for lora, strength in ((kohya(), 0.7), ({key: 0.5 * value for key, value in kohya().items()}, -0.4)):
        stacked = [comfy.sd.load_lora_for_models(model, None, lora, strength, 0.0)[0] for model in stacked]
    assert psnr(sample(stacked[0]), sample(stacked[1])) >= 60
    assert torch.equal(sample(models[0]), plain)


def test_replaced_branches_do_not_stay_in_the_runner(models: tuple[Any, Any]) -> None:
    remote = models[0].model.diffusion_model.engine_model
    for strength in (0.1, 0.2, 0.3):
        sample(comfy.sd.load_lora_for_models(models[0], None, kohya(), strength, 0.0)[0])
    held = [model for model in remote.runner.memory().models if model.files_digest == held_files(remote)]
    assert [model.digest for model in held] == [remote.weights.digest]


def held_files(remote: Any) -> str:
    return next(m.files_digest for m in remote.runner.memory().models if m.digest == remote.weights.digest)


def test_lora_of_one_prompt_by_hook(models: tuple[Any, Any]) -> None:
    """Create Hook LoRA and Set CLIP Hooks: the LoRA counts for the conditioning that carries it."""
    hooks = comfy.hooks.create_hook_lora(kohya(), strength_model=0.9, strength_clip=0.0)
    ours, core = (sample(model, hooks=hooks.clone()) for model in models)
    assert psnr(ours, core) >= 60
    assert psnr(ours, sample(models[0])) < 40


def test_patches_of_a_schedule_change_in_the_middle_of_sampling(models: tuple[Any, Any]) -> None:
    """Create Hook LoRA with keyframes: a branch and a weight computed anew, whose strength goes from one to another."""
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    hadamard = {
        f"{name}.hada_w{n}_{side}": pair(4, 3 * HIDDEN, HIDDEN, n)[side == "b"] for n in (1, 2) for side in "ab"
    }
    hooks = comfy.hooks.create_hook_lora(kohya() | hadamard, strength_model=0.9, strength_clip=0.0)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for strength, start in ((1.0, 0.0), (0.3, 0.5)):
        keyframes.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    results = {}
    for scheduled in (True, False):
        hooks.set_keyframes_on_hooks(keyframes if scheduled else comfy.hooks.HookKeyframeGroup())
        results[scheduled] = [sample(model, hooks=hooks.clone()) for model in models]
        assert psnr(*results[scheduled]) >= 60
    assert psnr(results[True][0], results[False][0]) < 50


def test_bypass_loader_is_refused_where_it_reaches_for_layers(models: tuple[Any, Any], clips: tuple[Any, Any]) -> None:
    """LoraLoaderBypass: what it passes over it only logs."""
    for model, clip, lora in ((models[0], None, kohya()), (None, clips[0], encoder_lora())):
        with pytest.raises(NotImplementedError, match=r"layers \(bypass_lora\), .* use Load LoRA"):
            comfy.sd.load_bypass_lora_for_models(model, clip, lora, 0.8, 0.8)
    model = models[0].model.diffusion_model
    assert model.img_in.weight.shape == (HIDDEN, 64)
    with pytest.raises(NotImplementedError, match="its layer img_in"):
        _ = model.img_in.forward
    assert not hasattr(model, "heatmap_head")
    assert model.dtype == torch.float32


@pytest.mark.parametrize("strength", [0.6, 0.0])
@pytest.mark.parametrize("lora", [encoder_lora(), tables_lora()], ids=["layers", "tables"])
def test_embeddings_equal_those_of_patched_encoders(clips: tuple[Any, Any], lora: Lora, strength: float) -> None:
    ours, core = (comfy.sd.load_lora_for_models(None, clip, lora, 0.0, strength)[1] for clip in clips)

    def encode(clip: Any) -> tuple[Tensor, Tensor]:
        return clip.encode_from_tokens(clip.tokenize("a red circle above a blue square"), return_pooled=True)

    (embeddings, pooled), (expected, expected_pooled) = encode(ours), encode(core)
    assert relative_error(embeddings, expected) <= 1e-3
    assert relative_error(pooled, expected_pooled) <= 1e-5
    plain, plain_pooled = encode(clips[0])
    changed = relative_error(embeddings, plain), relative_error(pooled, plain_pooled)
    tables = len(lora) == len(tables_lora())  # which T5 has none of
    assert (changed[1] > 1e-2 and (tables or changed[0] > 1e-2)) if strength else (max(changed) == 0.0)
