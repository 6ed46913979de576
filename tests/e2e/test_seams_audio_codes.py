"""Codes of sound that ACE-Step 1.5's language model writes, in a loop of its own: those of core, on the same files."""

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
client, dry_run = part("native.client.runner"), part("native.engines.dry_run")
host, planning = part("nodes.components.host"), part("native.planning")
language, unknown = part("nodes.planner.language"), part("nodes.planner.unknown")
placement, planned_models = part("native.placement"), part("nodes.planner.planned_models")
weights = part("native.weights")

import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.text_encoders.ace15 as ace15  # noqa: E402
import comfy.text_encoders.llama as llama  # noqa: E402
from comfy_extras.nodes_ace import TextEncodeAceStepAudio15  # noqa: E402

import nodes  # noqa: E402
from tests.runner_toys import new_runner  # noqa: E402
from tests.small_encoders import SMALL  # noqa: E402

from ..parity.model_cases import randomize  # noqa: E402
from .test_seams_text_generation import LOUD, small  # noqa: E402, F401

PAD, FIRST, LAST, END = 3, 200, 490, 7  # tokens: of padding, the first and the last of sound, of the end of a text
SAMPLED = {"temperature": 0.85, "top_p": 0.9, "top_k": 40, "min_p": 0.01}
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
NODE = {
    "tags": "", "lyrics": "", "seed": 0, "bpm": 120, "duration": 1.0, "timesignature": "4", "language": "en",
    "keyscale": "C major", "generate_audio_codes": True, "cfg_scale": 2.0, "temperature": 0.0, "top_p": 1.0, "top_k": 0,
    "min_p": 0.0,
}  # fmt: skip
CODES = {"CPU": 24, "Vulkan0": 8}
BOUND = {"CPU": 1e-4, "Vulkan0": 2e-2}  # relative L2 of the conditioning


def prompt(length: int, seed: int) -> list[list[tuple[int, float]]]:
    return [[(10 + (37 * number + seed) % 180, 1.0) for number in range(length)]]


def tokens(
    codes: int, cfg_scale: float = 2.0, positive: int = 14, negative: int = 9, **sampling: Any
) -> dict[str, Any]:
    """The tokens of a node's inputs as core's tokenizer gives them, of few words."""
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
    loop = ace15.sample_manual_loop_no_classes
    monkeypatch.setattr(loop, "__defaults__", (*loop.__defaults__[:-3], FIRST, LAST, END))
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
    monkeypatch.setattr(encoder, "TextWriter", None)  # which has torch compute
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


@pytest.mark.parametrize("placed", [{"engine": "torch"}, {"residency": "disk"}], ids=["torch", "disk"])
def test_wherever_it_is_placed(files: list[Path], placed: dict[str, str]) -> None:
    given = tokens(6, **SAMPLED)
    assert encoded(ours(files, **placed), given)["audio_codes"] == encoded(core(files), given)["audio_codes"]


@pytest.mark.parametrize("device", ["CPU", "Vulkan0"])
def test_flash_attention_of_a_short_prompt(files: list[Path], monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Its mask is in F16, and tokens that only fill the prompt up see none that counts."""
    monkeypatch.setattr(component, "LowerOptions", partial(lower.LowerOptions, flash_bytes=0))
    given = tokens(4, positive=24, **GREEDY)
    assert encoded(ours(files, device), given)["audio_codes"] == encoded(core(files), given)["audio_codes"]


def test_a_text_can_go_on_from_an_earlier_token(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of several continuations; and past the room that the node has made."""
    monkeypatch.setattr(text_cache, "_LEAST_ROWS", 4)
    clip, by_core = ours(files), core(files)
    draw = torch.Generator().manual_seed(1)
    given, *others = (torch.randn((2, count, 2048), generator=draw) for count in (6, 1, 1, 1, 1))
    mask = torch.ones((2, 10), dtype=torch.int64)
    mask[1, :2] = 0
    first, second = ([], [])
    for each, states in ((clip, first), (by_core, second)):
        model = each.cond_stage_model.qwen3_2b.transformer
        past = [(*(torch.zeros((2, 2, 8, 128)) for _ in "kv"), 0) for _ in range(3)]
        x, _, past = model(None, mask[:, :6], embeds=given, past_key_values=past)
        states += [x[0], x[1, 2:], model.logits(x)]
        x, _, _ = model(None, mask[:, :7], embeds=others[0], past_key_values=past)
        states.append(x)
        for number in range(1, 4):
            x, _, past = model(None, mask[:, : 6 + number], embeds=others[number], past_key_values=past)
            states += [x, model.logits(x)]
    for found, expected in zip(first, second, strict=True):
        assert found.shape == expected.shape
        assert apart(found, expected) < BOUND["CPU"]


@pytest.mark.parametrize(("device", "rows"), [("CPU", 4), ("CPU", 256), ("Vulkan0", 256)])
def test_the_plan_is_what_it_takes(files: list[Path], monkeypatch: pytest.MonkeyPatch, rows: int, device: str) -> None:
    """Of all codes, whose number is known; what writing takes is free once another model computes."""
    monkeypatch.setattr(text_cache, "_LEAST_ROWS", rows)
    given = tokens(40, positive=3, negative=2, **GREEDY)
    monkeypatch.setattr(comfy.sd.CLIP, "tokenize", lambda *_, **__: given)
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "TextEncodeAceStepAudio1.5", TextEncodeAceStepAudio15)
    real, dry_runner = (client.Runner(toy._options, toy._environment) for toy in (new_runner(), new_runner()))
    monkeypatch.setattr(client, "_shared", real)
    try:
        devices = tuple(dry_runner.devices())
        recorder = dry_run.Recorder(dry_runner, planning.Machine(devices, {each.name: 1 << 40 for each in devices}))
        with host.dry_run_host(recorder), torch.inference_mode():
            inputs = {**NODE, "clip": planned_models.planned_model(ours(files, device))}
            ((_, more),) = language.song(inputs, unknown.NodeTurn(recorder, unknown.Size()))[0]
        assert more["audio_codes"] == [[0] * 40]
        clip = ours(files, device)  # held to the end: the runner frees what a collected one has left
        encoded(clip, given)
        (phase,) = recorder.plan().phases
        taken = {each.name: each.peak for each in real.memory().devices}
        assert {name: phase.peak[name] for name in taken} == taken
        assert [part.times for step, part in recorder.steps if step.do == "run"] == [1, 1, 1, 1, 39, 39]
        assert sum(each.compute for each in real.memory().models)
        host.current_host().lifetimes.begin_phase(0)
        assert not sum(each.compute for each in real.memory().models)
    finally:
        real.close()
        dry_runner.close()
