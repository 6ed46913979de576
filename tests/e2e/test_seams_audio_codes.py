"""Codes of sound that ACE-Step 1.5's language model writes in a loop of a node's own: those of core, on the same files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.pack import part

encoders, encoder = part("nodes.loaders.text_encoders"), part("nodes.components.encoder")
component, lower = part("nodes.components.component"), part("native.lower")
text_cache = part("nodes.components.text_cache")
placement = part("native.placement")
weights = part("native.weights")

import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.text_encoders.ace15 as ace15  # noqa: E402
import comfy.text_encoders.llama as llama  # noqa: E402

from tests.small_encoders import SMALL  # noqa: E402

from ..parity.model_cases import randomize  # noqa: E402
from .test_seams_text_generation import LOUD, small  # noqa: E402, F401

PAD, FIRST, LAST, END = 3, 200, 490, 7  # tokens: of padding, the first and the last of sound, of the end of a text
SAMPLED = {"temperature": 0.85, "top_p": 0.9, "top_k": 40, "min_p": 0.01}
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
CODES = {"CPU": 24, "Vulkan0": 8}
BOUND = {"CPU": 1e-4, "Vulkan0": 2e-2}  # relative L2 of the conditioning


def prompt(length: int, seed: int) -> list[list[tuple[int, float]]]:
    return [[(10 + (37 * number + seed) % 180, 1.0) for number in range(length)]]


def tokens(codes: int, cfg_scale: float = 2.0, positive: int = 14, negative: int = 9, **sampling: Any) -> dict[str, Any]:
    """What core's tokenizer makes of a node's inputs, of few words."""
    return {
        "qwen3_06b": prompt(8, 1), "lyrics": prompt(6, 2),
        "lm_prompt": prompt(positive, 3), "lm_prompt_negative": prompt(negative, 4),
        "lm_metadata": {
            "generate_audio_codes": True, "min_tokens": codes, "seed": 5, "cfg_scale": cfg_scale, **sampling,
        },
    }  # fmt: skip


def _ready(clip: Any) -> Any:
    for each in (clip.cond_stage_model.qwen3_06b, clip.cond_stage_model.qwen3_2b):
        each.special_tokens = {"pad": PAD}
    return clip


@pytest.fixture
def files(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:  # noqa: F811
    """The two files of small models, whose few words have those of sound among them."""
    of_few_words = partial(
        ace15.sample_manual_loop_no_classes, audio_start_id=FIRST, audio_end_id=LAST, eos_token_id=END
    )
    monkeypatch.setattr(ace15, "sample_manual_loop_no_classes", of_few_words)
    made = []
    for kind in (llama.Qwen3_06B_ACE15, llama.Qwen3_2B_ACE15_lm):
        tensors = dict(randomize(kind(dict(SMALL), torch.float32, "cpu", comfy.ops.disable_weight_init)).state_dict())
        for name in tensors:
            tensors[name] = tensors[name] * next((factor for part, factor in LOUD.items() if part in name), 1.0)
        made.append(tmp_path / f"{kind.__name__}.safetensors")
        save_file(tensors, made[-1])
    return made


def ours(files: list[Path], device: str = "CPU", **placed: Any) -> Any:
    headers = [weights.read_header(each) for each in files]
    return _ready(encoders.load_encoders(headers, "ace", placement.Placement(device, **placed))[0])


def core(files: list[Path]) -> Any:
    return _ready(
        comfy.sd.load_clip([str(each) for each in files], clip_type=comfy.sd.CLIPType.ACE,
                           model_options={"dtype": torch.float32})
    )  # fmt: skip


def encoded(clip: Any, given: dict[str, Any]) -> dict[str, Any]:
    with torch.inference_mode():  # as ComfyUI runs nodes
        ((text, more),) = clip.encode_from_tokens_scheduled(given)
    return {"text": text, **more}


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("device", ["CPU", "Vulkan0"])
def test_the_codes_are_those_of_core(files: list[Path], monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """With guidance, of which either prompt may be the shorter one, and without."""
    monkeypatch.setattr(encoder, "TextWriter", None)  # torch has no part in it
    clip, by_core = ours(files, device), core(files)
    for given in (
        tokens(CODES[device], **SAMPLED), tokens(CODES[device], positive=6, **GREEDY),
        tokens(CODES[device], cfg_scale=1.0, **SAMPLED),
    ):  # fmt: skip
        expected, found = encoded(by_core, given), encoded(clip, given)
        assert len(set(expected["audio_codes"][0])) > 2
        assert len(expected["audio_codes"][0]) == CODES[device]
        assert found["audio_codes"] == expected["audio_codes"]
        for name in ("text", "conditioning_lyrics"):
            assert apart(found[name], expected[name]) < BOUND[device]


@pytest.mark.parametrize("device", ["CPU", "Vulkan0"])
def test_flash_attention_of_a_short_prompt(files: list[Path], monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Its mask is in F16, and tokens that only fill the prompt up see none that counts."""
    monkeypatch.setattr(component, "LowerOptions", partial(lower.LowerOptions, flash_bytes=0))
    given = tokens(4, positive=24, **GREEDY)
    assert encoded(ours(files, device), given)["audio_codes"] == encoded(core(files), given)["audio_codes"]
