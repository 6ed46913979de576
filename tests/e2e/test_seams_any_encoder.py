"""Text encoders that no line of the pack names: files in core's names, our loader, core's tokens; against core's own.

Widths are the real ones, which core's detection goes by; of language models two layers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.pack import part

encoders = part("nodes.loaders.text_encoders")
placement = part("native.placement")
weights = part("native.weights")

import comfy.clip_model  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.sd1_clip  # noqa: E402
import comfy.text_encoders.llama as llama  # noqa: E402

from ..parity.model_cases import randomize  # noqa: E402

PROMPT = "a red (square:1.2) and a dog"
LAYERS = {"num_hidden_layers": 2}
BOUND = 2e-3  # relative L2: weights in F16


def _clip_l() -> torch.nn.Module:
    config = json.loads((Path(comfy.sd1_clip.__file__).parent / "sd1_clip_config.json").read_text())
    return comfy.clip_model.CLIPTextModel(config, torch.float32, "cpu", comfy.ops.disable_weight_init)


def qwen3() -> torch.nn.Module:
    return llama.Qwen3_06B(LAYERS, torch.float32, "cpu", comfy.ops.disable_weight_init)


@pytest.mark.parametrize(
    ("build", "sizes"),
    [(_clip_l, {}), (qwen3, {"qwen3_06b_model_config": LAYERS})],
    ids=["CLIP-L of SD1.5", "Qwen3 of Anima"],
)
def test_encodes_as_core(tmp_path: Path, build: Any, sizes: dict[str, Any]) -> None:
    tensors = {name: value.half() for name, value in randomize(build()).state_dict().items()}
    save_file(tensors, tmp_path / "encoder.safetensors")
    core = comfy.sd.load_text_encoder_state_dicts(
        [tensors], embedding_directory=[], model_options={"dtype": torch.float32, **sizes}
    )
    header = weights.read_header(tmp_path / "encoder.safetensors")
    ours, held = encoders.load_encoders([header], "auto", placement.Placement("CPU"), sizes)
    assert type(ours.tokenizer) is type(core.tokenizer)
    assert sum(len(each.parameters) for each in held) == len(tensors)
    for prompt in (PROMPT, PROMPT + ", twice as long as before"):
        (text, pooled), (expected, expected_pooled) = (
            clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True) for clip in (ours, core)
        )
        assert float((text - expected).norm() / expected.norm()) <= BOUND
        if expected_pooled is not None:
            assert float((pooled - expected_pooled).norm() / expected_pooled.norm()) <= BOUND


def test_text_is_written_as_core_writes_it(tmp_path: Path) -> None:
    """Greedily and by chance; in a dry run nothing is written, and it is known how long the text may be."""
    sizes = {"qwen3_06b_model_config": LAYERS}
    tensors = {name: value.half() for name, value in randomize(qwen3()).state_dict().items()}
    save_file(tensors, tmp_path / "encoder.safetensors")
    core = comfy.sd.load_text_encoder_state_dicts(
        [tensors], embedding_directory=[], model_options={"dtype": torch.float32, **sizes}
    )
    header = weights.read_header(tmp_path / "encoder.safetensors")
    ours, _ = encoders.load_encoders([header], "auto", placement.Placement("CPU"), sizes)
    for choice in ({"do_sample": False}, {"do_sample": True, "seed": 3, "temperature": 4.0}):
        found, expected = (
            clip.generate(clip.tokenize(PROMPT), max_length=5, presence_penalty=1e4, **choice) for clip in (ours, core)
        )
        assert found == expected
        assert len(set(found)) > 1 or not choice["do_sample"]
    client, dry_run, planning = (part(f"native.{name}") for name in ("client", "engines.dry_run", "planning"))
    devices = tuple(client.shared().devices())
    recorder = dry_run.Recorder(client.shared(), planning.Machine(devices, {each.name: 1 << 40 for each in devices}))
    with part("nodes.components.host").dry_run_host(recorder):
        planned, _ = encoders.load_encoders([header], "auto", placement.Placement("CPU"), sizes)
        with pytest.raises(part("nodes.components.text_writer").TextUnknown) as unknown:
            planned.generate(planned.tokenize(PROMPT), max_length=6)
    assert unknown.value.tokens == 6
