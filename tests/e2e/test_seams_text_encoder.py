"""GGML Text Encoders in core's CLIP nodes, beside core's own encoders with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests import random_models
from tests.core_models import core_clip, relative_error
from tests.pack import part

encoders = part("nodes.loaders.text_encoders")
placement = part("native.placement")
weights = part("native.weights")

from comfy_extras.nodes_flux import CLIPTextEncodeFlux  # noqa: E402

import nodes as core_nodes  # noqa: E402

Clips = tuple[Any, Any]  # ours, core's
# Relative L2. ggml's table of GELU decides T5's with F32 weights; with F16 ones ggml rounds activations to F16.
# Torch may multiply F16 weights in BF16.
T5_LIMIT, CLIP_LIMIT, F16_LIMIT, BF16_LIMIT = 1e-3, 1e-5, 2e-3, 1e-2


def load(folder: Path, half: bool, engine: str = "ggml") -> Clips:
    t5, clip_l = random_models.t5(), random_models.clip_l()
    t5_path = random_models.write_gguf(folder / "t5.gguf", "t5", t5, np.float16 if half else np.float32)
    dtype = torch.float16 if half else torch.float32
    clip_path = random_models.write_safetensors(folder / "clip_l.safetensors", clip_l, dtype)
    headers = [weights.read_header(t5_path), weights.read_header(clip_path)]
    placed = placement.Placement("CPU", engine=engine)
    return encoders.load_encoders(headers, "flux", placed)[0], core_clip(t5, clip_l)


@pytest.fixture(scope="module", params=["ggml", "torch"])
def clips(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """With F32 weights."""
    return load(tmp_path_factory.mktemp("clips"), half=False, engine=request.param)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def compare(found: Any, expected: Any) -> None:
    (embeddings, values), (expected_embeddings, expected_values) = found[0], expected[0]
    assert relative_error(embeddings, expected_embeddings) <= T5_LIMIT
    assert relative_error(values["pooled_output"], expected_values["pooled_output"]) <= CLIP_LIMIT


@pytest.mark.parametrize(
    "text",
    [
        "a red circle above a blue square",
        "",
        "a (very:1.4) red (circle:0.6)",
        "many words " * 60,
        " ".join(f"word{i}" for i in range(150)),
    ],
    ids=["plain", "empty", "weighted", "beyond 77 tokens", "beyond 256 tokens"],
)
def test_prompt(clips: Clips, text: str) -> None:
    ours, core = (core_nodes.CLIPTextEncode().encode(clip, text)[0] for clip in clips)
    compare(ours, core)


@pytest.mark.parametrize(("engine", "limit"), [("ggml", F16_LIMIT), ("torch", BF16_LIMIT)])
def test_f16_weights(tmp_path: Path, engine: str, limit: float) -> None:
    found, expected = (
        core_nodes.CLIPTextEncode().encode(clip, "a red circle")[0][0] for clip in load(tmp_path, True, engine)
    )
    assert relative_error(found[0], expected[0]) <= limit
    assert relative_error(found[1]["pooled_output"], expected[1]["pooled_output"]) <= limit


def test_two_prompts_and_guidance(clips: Clips) -> None:
    ours, core = (CLIPTextEncodeFlux.execute(clip, "a circle", "a red circle", 2.5).result[0] for clip in clips)
    compare(ours, core)
    assert ours[0][1]["guidance"] == 2.5


def test_earlier_layer(clips: Clips) -> None:
    """CLIP Set Last Layer: intermediate states, normed or not as core decides."""
    ours, core = (core_nodes.CLIPSetLastLayer().set_last_layer(clip, -2)[0] for clip in clips)
    tokens = ours.tokenize("a red circle")
    found = [clip.encode_from_tokens(tokens, return_pooled=True) for clip in (ours, core)]
    assert relative_error(found[0][0], found[1][0]) <= T5_LIMIT
    assert relative_error(found[0][1], found[1][1]) <= CLIP_LIMIT
    assert relative_error(found[0][0], clips[0].encode_from_tokens(tokens)) > 1e-2


def test_pooled_output_is_projected_where_it_is_asked_for(clips: Clips) -> None:
    tokens = clips[0].tokenize("a red circle")["l"]
    found = []
    for clip in clips:
        clip.load_model()
        clip.cond_stage_model.clip_l.set_clip_options(
            {"projected_pooled": True, "execution_device": torch.device("cpu")}
        )
        found.append(clip.cond_stage_model.clip_l.encode_token_weights(tokens)[1])
        clip.cond_stage_model.reset_clip_options()
    assert relative_error(found[0], found[1]) <= CLIP_LIMIT


def test_textual_inversion(clips: Clips, tmp_path: Path) -> None:
    vectors = torch.randn(3, random_models.CLIP_WIDTH)
    tokens = clips[0].tokenize("a picture of something red")
    tokens["l"][0][2:3] = [(vector, 1.0) for vector in vectors]
    del tokens["l"][0][77:]
    ours, core = (clip.encode_from_tokens(tokens, return_pooled=True)[1] for clip in clips)
    assert relative_error(ours, core) <= CLIP_LIMIT


def test_one_trace_serves_prompts_of_every_length_up_to_256_tokens(
    clips: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    core_nodes.CLIPTextEncode().encode(clips[0], "one")
    monkeypatch.delattr(part("native.engines.ggml"), "trace")
    core_nodes.CLIPTextEncode().encode(clips[0], "a few more words than one")


def test_clip_without_a_projection(tmp_path: Path) -> None:
    tensors = random_models.clip_l()
    del tensors["text_projection.weight"]
    save_file(tensors, tmp_path / "clip_l.safetensors")
    t5_path = random_models.write_gguf(tmp_path / "t5.gguf", "t5", random_models.t5())
    headers = [weights.read_header(tmp_path / "clip_l.safetensors"), weights.read_header(t5_path)]
    clip, _ = encoders.load_encoders(headers, "auto", "CPU")
    clip.load_model()
    model = clip.cond_stage_model.clip_l
    embeds, *_ = model.process_tokens([[49406, 320, 49407]], torch.device("cpu"))
    padded = torch.cat([embeds, embeds[:, -1:].expand(1, 74, -1)], dim=1)
    _, _, projected, pooled = model.transformer(None, None, embeds=padded, num_tokens=[3])
    assert torch.equal(projected, pooled)


def test_attention_mask(clips: Clips) -> None:
    """T5 with masks, as other models than FLUX.1 use it."""
    transformer = clips[0].cond_stage_model.t5xxl.transformer
    core = clips[1].cond_stage_model.t5xxl.transformer
    embeds = torch.randn(2, 40, random_models.T5_WIDTH)
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[0, 25:] = 0
    found, _ = transformer(None, mask, embeds=embeds.clone())
    expected, _ = core(None, mask, embeds=embeds.clone())
    assert relative_error(found[0, :25], expected[0, :25]) <= T5_LIMIT
    assert relative_error(found[1], expected[1]) <= T5_LIMIT
