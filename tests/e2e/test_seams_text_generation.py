"""Text that text encoders write: the tokens of core's own, on the same file, in core's own loop and sampling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.pack import part
from tests.runner_toys import new_runner

encoders = part("nodes.loaders.text_encoders")
component, encoder = part("nodes.components.component"), part("nodes.components.encoder")
text_cache = part("nodes.components.text_cache")
client, dry_run = part("native.client.runner"), part("native.engines.dry_run")
host, planning = part("nodes.components.host"), part("native.planning")
placement = part("native.placement")
weights = part("native.weights")

import comfy.model_management  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.text_encoders.llama as llama  # noqa: E402
import comfy.text_encoders.qwen3vl as qwen3vl  # noqa: E402
import comfy.text_encoders.qwen35 as qwen35  # noqa: E402
import comfy.utils  # noqa: E402
import comfy.weight_adapter  # noqa: E402

from tests import small_encoders  # noqa: E402
from tests.small_encoders import SMALL, spiece_tensor  # noqa: E402

from ..parity.model_cases import randomize  # noqa: E402

PROMPT = [5, 90, 17, 301, 44, 260, 8, 123, 77]
KINDS = {
    "Qwen3 4B": (llama.Qwen3_4B, {}, "auto"),
    "Qwen3 8B": (llama.Qwen3_8B, {}, "flux2"),  # whose head is not the table of tokens
    "Gemma 3 4B": (llama.Gemma3_4B, {"spiece_model": spiece_tensor("bpe")}, "auto"),
    "Ministral 3 3B": (llama.Ministral3_3B, {}, "auto"),
    "Qwen3-VL 4B": (qwen3vl._make_qwen3vl_model("qwen3vl_4b"), {}, "krea2"),
}
LOUD = {"self_attn.o_proj": 16, "mlp.down_proj": 16, "q_norm": 3, "k_norm": 3, "q_proj": 4, "k_proj": 4}
LOUD_GEMMA = {"embed_tokens": 0.01, "post_": 10}  # times what they are else
LENGTH = {"CPU": 24, "Vulkan0": 8}  # tokens
BOUND, BOUND_OF_GEMMA = {"CPU": 1e-3, "Vulkan0": 2e-2}, 3e-2  # relative L2
BOUND_OF_PICTURES = {"CPU": 1e-2, "Vulkan0": 6e-2}  # of whose towers ggml has a table of GELU, too
GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.1}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_encoders.shrink(monkeypatch, lambda _: SMALL)
    small_encoders.small_towers(monkeypatch)
    small_encoders.without_mistrals_tokenizer(monkeypatch)
    monkeypatch.setattr(comfy.utils, "calculate_parameters", lambda *_: 1 << 33)


def clips(path: Path, name: str, device: str = "CPU", **placed: Any) -> tuple[Any, Any]:
    """Ours, and core's of the same file."""
    kind, more, type_ = KINDS[name]
    module = kind(dict(SMALL), torch.float32, "cpu", comfy.ops.disable_weight_init)
    tensors = dict(randomize(module).state_dict())
    loud = LOUD_GEMMA if "Gemma" in name else LOUD
    for key in tensors:  # else the next token is the last one again, whose embedding the head has too
        tensors[key] = tensors[key] * next((factor for part, factor in loud.items() if part in key), 1.0)
    tensors |= more
    tensors = {f"model.{key}" if key.startswith("visual.") else key: value for key, value in tensors.items()}
    save_file(tensors, path / "encoder.safetensors")
    header = weights.read_header(path / "encoder.safetensors")
    ours, _ = encoders.load_encoders([header], type_, placement.Placement(device, **placed))
    found = getattr(comfy.sd.CLIPType, type_.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION)
    core = comfy.sd.load_text_encoder_state_dicts(
        [dict(tensors)], embedding_directory=[], clip_type=found, model_options={"dtype": torch.float32}
    )
    return ours, core


def written(clip: Any, prompt: list[Any], length: int, **sampling: Any) -> list[int]:
    """The ids of the tokens that a CLIP writes; prompt: ids, and pictures."""
    with torch.inference_mode():  # as ComfyUI runs nodes
        return clip.generate({clip.cond_stage_model.clip_name: [[(each, 1.0) for each in prompt]]}, max_length=length,
                             seed=7, **sampling)  # fmt: skip


def logits_of(clip: Any, prompt: list[Any], tokens: list[int]) -> torch.Tensor:
    """The logits before each of these tokens, [tokens, words], which are written whatever the logits are."""
    found: list[torch.Tensor] = []

    def sample(_self: Any, logits: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        found.append(logits[0].float().clone())
        return torch.tensor([[tokens[len(found) - 1]]])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(llama.BaseGenerate, "sample_token", sample)
        written(clip, prompt, len(tokens))
    return torch.stack(found)


def assert_alike(ours: Any, core: Any, prompt: list[Any], tokens: list[int], bound: float) -> None:
    result, expected = logits_of(ours, prompt, tokens), logits_of(core, prompt, tokens)
    errors = (result - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(errors.max()) <= bound, errors


@pytest.mark.parametrize("device", ["CPU", "Vulkan0"])
@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.turns(5)
def test_writes_the_tokens_of_core(small: None, tmp_path: Path, name: str, device: str) -> None:
    ours, core = clips(tmp_path, name, device)
    bound = BOUND_OF_GEMMA if "Gemma" in name else BOUND[device]
    for sampling in (GREEDY, SAMPLED):
        expected = written(core, PROMPT, LENGTH[device], **sampling)
        assert len(set(expected)) > 2
        if name != "Gemma 3 4B":  # of whose GELU ggml has a table on the CPU
            assert written(ours, PROMPT, LENGTH[device], **sampling) == expected
    assert_alike(ours, core, PROMPT, expected, bound)
    assert_alike(ours, core, PROMPT[:5], expected[:3], bound)


@pytest.mark.parametrize("device", ["CPU", "Vulkan0"])
def test_writes_about_a_picture(small: None, tmp_path: Path, device: str) -> None:
    """Positions of three dimensions, and what the vision tower adds to the first layers."""
    ours, core = clips(tmp_path, "Qwen3-VL 4B", device)
    picture = torch.rand((1, 96, 64, 3), generator=torch.Generator().manual_seed(5))
    prompt = [*PROMPT[:4], {"type": "image", "data": picture, "original_type": "image"}, *PROMPT[4:]]
    expected = written(core, prompt, LENGTH[device], **GREEDY)
    assert expected != written(core, PROMPT, LENGTH[device], **GREEDY)
    if device == "CPU":  # Vulkan's products of the vision tower are less exact
        assert written(ours, prompt, LENGTH[device], **GREEDY) == expected
    assert_alike(ours, core, prompt, expected, BOUND_OF_PICTURES[device])


@pytest.mark.parametrize("rows", [8, 256])
@pytest.mark.parametrize("length", [3, 20])
def test_layers_that_look_back_a_few_tokens_only(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, length: int
) -> None:  # fmt: skip
    """Prompts shorter and longer than that, and keys and values that are moved to where there is more room."""
    monkeypatch.setattr(llama.Gemma3_4B_Config, "sliding_attention", [12, 12, False])
    monkeypatch.setattr(text_cache, "_LEAST_ROWS", rows)
    ours, core = clips(tmp_path, "Gemma 3 4B")
    prompt = [(37 * number + 11) % 500 for number in range(length)]
    assert_alike(ours, core, prompt, written(core, prompt, 40, **SAMPLED), BOUND_OF_GEMMA)


def test_what_the_device_lost_is_sent_again(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another model needed its memory between two tokens."""
    ours, core = clips(tmp_path, "Qwen3 4B")
    expected = written(core, PROMPT, 24, **SAMPLED)
    sample = llama.BaseGenerate.sample_token
    transformer = ours.cond_stage_model.qwen3_4b.transformer
    tokens = 0

    def lossy(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal tokens
        tokens += 1
        if tokens == 7:
            transformer.loaded.release()
        if tokens == 12:
            transformer.loaded.unload()
        return sample(self, *args, **kwargs)

    monkeypatch.setattr(llama.BaseGenerate, "sample_token", lossy)
    assert written(ours, PROMPT, 24, **SAMPLED) == expected
    assert tokens == 24


def test_it_can_be_interrupted(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the token at which the button was pressed; the next text is whole."""
    ours, core = clips(tmp_path, "Qwen3 4B")
    sample = llama.BaseGenerate.sample_token
    tokens = 0

    def interrupting(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal tokens
        tokens += 1
        if tokens == 5:
            comfy.model_management.interrupt_current_processing()
        return sample(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(llama.BaseGenerate, "sample_token", interrupting)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            written(ours, PROMPT, 24, **SAMPLED)
    assert tokens == 5
    assert written(ours, PROMPT, 8, **SAMPLED) == written(core, PROMPT, 8, **SAMPLED)


@pytest.mark.parametrize("placed", [{"engine": "torch"}, {"residency": "disk"}], ids=["torch", "disk"])
def test_wherever_it_is_placed(small: None, tmp_path: Path, placed: dict[str, str]) -> None:
    ours, core = clips(tmp_path, "Qwen3 4B", **placed)
    assert written(ours, PROMPT, 12, **SAMPLED) == written(core, PROMPT, 12, **SAMPLED)


@pytest.mark.parametrize("device", ["CPU", "Vulkan0"])
@pytest.mark.parametrize("rows", [4, 256])
def test_the_plan_is_what_it_takes(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, device: str
) -> None:  # fmt: skip
    """Of a text of all tokens that it may have; every step after the prompt is one of the plan."""
    monkeypatch.setattr(text_cache, "_LEAST_ROWS", rows)
    clips(tmp_path, "Qwen3 4B", device)
    real, dry_runner = (client.Runner(toy._options, toy._environment) for toy in (new_runner(), new_runner()))
    monkeypatch.setattr(client, "_shared", real)
    try:
        devices = tuple(dry_runner.devices())
        recorder = dry_run.Recorder(dry_runner, planning.Machine(devices, {each.name: 1 << 40 for each in devices}))
        header = weights.read_header(tmp_path / "encoder.safetensors")
        with host.dry_run_host(recorder):
            planned, _ = encoders.load_encoders([header], "auto", placement.Placement(device))
            assert written(planned, PROMPT, 6, **GREEDY) == []
        ours, _ = encoders.load_encoders([header], "auto", placement.Placement(device))
        assert len(written(ours, PROMPT, 6, **GREEDY)) == 6
        (phase,) = recorder.plan().phases
        taken = {each.name: each.peak for each in real.memory().devices}
        assert {name: phase.peak[name] for name in taken} == taken
        assert [part.times for step, part in recorder.steps if step.do == "run"] == [1, 1, 5, 5]
    finally:
        real.close()
        dry_runner.close()


def test_torch_writes_what_keeps_more_than_keys_and_values(small: None) -> None:
    """Qwen3.5, three of four layers of which have a state."""
    few = {
        "num_hidden_layers": 4, "vocab_size": 512, "intermediate_size": 256, "num_attention_heads": 2,
        "num_key_value_heads": 1, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    }  # fmt: skip
    kind = type("Small", (qwen35.Qwen35,), {"model_type": "qwen35_08b"})
    core = randomize(kind(few, torch.float32, "cpu", comfy.ops.disable_weight_init))
    empty = kind(few, torch.float32, "meta", component.MetaOperations)
    arrays = {name: x.detach().numpy() for name, x in core.state_dict().items() if x.is_floating_point()}
    module = encoder.EncoderModule(empty, weights.WeightSet("Qwen3.5", {}, (), arrays), placement.Placement("CPU"))
    embeds = torch.randn((1, 3, core.model.config.hidden_size), generator=torch.Generator().manual_seed(1))
    asked = {
        "do_sample": True, "max_length": 6, "seed": 2, "stop_tokens": [], "execution_dtype": torch.float32,
        "temperature": 4.0, "presence_penalty": 1e4,
    }  # fmt: skip
    expected = core.generate(embeds, **asked)
    assert module.generate(embeds, **asked) == expected
    assert len(set(expected)) > 1
    devices = tuple(client.shared().devices())
    recorder = dry_run.Recorder(client.shared(), planning.Machine(devices, {each.name: 1 << 40 for each in devices}))
    with host.dry_run_host(recorder):
        planned = encoder.EncoderModule(empty, weights.WeightSet("Qwen3.5", {}, (), arrays), placement.Placement("CPU"))
        assert planned.generate(embeds, **asked) == []


def test_patches_count(small: None, tmp_path: Path) -> None:
    """On a layer, beside its weight, and on the table of tokens, which is the head, too."""
    ours, core = clips(tmp_path, "Qwen3 4B")
    plain = written(core, PROMPT, 12, **GREEDY)
    draw = torch.Generator().manual_seed(1)
    shapes = {"layers.1.mlp.up_proj.weight": 4.0, "embed_tokens.weight": 1.0}
    state = core.cond_stage_model.state_dict()
    patches = {}
    for name, strength in shapes.items():
        key = f"qwen3_4b.transformer.model.{name}"
        rows, columns = state[key].shape
        up, down = (torch.randn(shape, generator=draw) * strength / 8 for shape in ((rows, 4), (4, columns)))
        patches[key] = comfy.weight_adapter.LoRAAdapter(set(), (up, down, 4.0, None, None, None))
    for clip in (ours, core):
        assert set(clip.add_patches(patches)) == set(patches)
    expected = written(core, PROMPT, 12, **GREEDY)
    assert expected != plain
    assert_alike(ours, core, PROMPT, expected, BOUND["CPU"])
    assert written(ours, PROMPT, 12, **GREEDY) == expected
