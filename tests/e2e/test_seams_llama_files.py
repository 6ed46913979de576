"""Text encoders in llama.cpp's GGUF files: written as its converter does, our loader; against core on the same values.

Widths are those that core's detection goes by; layers, heads and vocabularies are few. Names are those of the gguf
package's table, layouts those of llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
import torch
from gguf.tensor_mapping import get_tensor_name_map

from tests.pack import part

encoders = part("nodes.loaders.text_encoders")
placement = part("native.placement")
weights = part("native.weights")

import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.text_encoders.llama as llama  # noqa: E402
import comfy.text_encoders.qwen3vl as qwen3vl  # noqa: E402
import comfy.text_encoders.qwen35 as qwen35  # noqa: E402
import comfy.text_encoders.t5 as t5  # noqa: E402

from tests import small_encoders  # noqa: E402
from tests.small_encoders import SMALL, SMALL_T5, encoded, sentences, spiece_tensor  # noqa: E402

from ..parity.families.case import ROUNDING  # noqa: E402
from ..parity.model_cases import randomize  # noqa: E402
from ..parity.model_files import round_activations  # noqa: E402

# Two value heads for each key head, as those from 4B on have.
SMALL_QWEN35 = {
    "num_hidden_layers": 4, "vocab_size": 512, "intermediate_size": 256, "num_attention_heads": 2,
    "num_key_value_heads": 1, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
}  # fmt: skip
# Relative L2: ggml quantizes the activations too where weights are Q8_0; T5 has 24 layers, each with GELU's table.
BOUNDS = {"F16": 2e-3, "Q8_0": 5e-2, "T5": 4e-3}
PROMPT = "a (red:1.2) dog\nand 赤い犬, größer  \u00bd <start>"
Q8_0 = gguf.GGMLQuantizationType.Q8_0


@dataclass(frozen=True)
class Case:
    """A language model: core's class, its configuration by the option of core's for it, llama.cpp's architecture."""

    architecture: str
    core: Callable[..., torch.nn.Module]
    option: str
    sizes: Mapping[str, Any] = field(default_factory=lambda: SMALL)
    type: str = "auto"
    tokenizer: str = "gpt2"
    more: Callable[[gguf.GGUFWriter], None] | None = None


def _qwen35(*arguments: Any) -> torch.nn.Module:
    return type("Small", (qwen35.Qwen35,), {"model_type": "qwen35_08b"})(*arguments)


CASES = {
    "Qwen3 0.6B": Case("qwen3", llama.Qwen3_06B, "qwen3_06b"),
    "Qwen3 4B": Case("qwen3", llama.Qwen3_4B, "qwen3_4b"),
    "Qwen3 8B": Case("qwen3", llama.Qwen3_8B, "qwen3_8b", SMALL),
    "Qwen2.5 VL 7B": Case("qwen2vl", llama.Qwen25_7BVLI, "qwen25_7b", {**SMALL, "num_key_value_heads": 4}),
    "Qwen2.5 VL 3B": Case("qwen2vl", llama.Qwen25_3B, "qwen25_3b"),
    "Llama 3.1 8B": Case("llama", llama.Llama2, "llama"),
    "Gemma 2 2B": Case("gemma2", llama.Gemma2_2B, "gemma2_2b", tokenizer="llama"),
    "Gemma 3 4B": Case("gemma3", llama.Gemma3_4B, "gemma3_4b", tokenizer="llama"),
    "Mistral Small 24B": Case("llama", llama.Mistral3Small24B, "mistral3_24b", tokenizer="tekken"),
    "Ministral 3 3B": Case("mistral3", llama.Ministral3_3B, "ministral3_3b", tokenizer="tekken"),
    "Qwen3.5 0.8B": Case("qwen35", _qwen35, "qwen35_08b", SMALL_QWEN35),
    "T5-XXL": Case("t5encoder", t5.T5, "t5xxl", SMALL_T5, "chroma", "t5"),
    "UMT5-XXL": Case("t5encoder", t5.T5, "umt5xxl", SMALL_T5, "wan", "t5"),
}  # fmt: skip


def built(case: Case) -> torch.nn.Module:
    """Core's module with random values."""
    config: dict[str, Any] = dict(case.sizes)
    if case.core is t5.T5:
        kind = "umt5" if case.option.startswith("umt5") else "t5"
        config |= {"d_ff": 10240, "num_layers": 24, "dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True}
        config |= {"model_type": kind, "relative_attention_num_buckets": 32}
    return randomize(case.core(config, torch.float32, "cpu", comfy.ops.disable_weight_init))


def add_tokenizer(writer: gguf.GGUFWriter, kind: str) -> None:
    """As llama.cpp's converter describes a tokenizer."""
    if kind in ("llama", "t5"):
        pieces = sentences("bpe" if kind == "llama" else "unigram")
        writer.add_tokenizer_model(kind)
        writer.add_token_list([pieces.id_to_piece(i) for i in range(len(pieces))])
        writer.add_token_scores([pieces.get_score(i) for i in range(len(pieces))])
        writer.add_token_types([kind_of(pieces, i) for i in range(len(pieces))])
        writer.add_add_space_prefix(kind == "t5")
        writer.add_pad_token_id(0)
        writer.add_eos_token_id(1)
        writer.add_bos_token_id(2)
        writer.add_unk_token_id(3)
        return
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("tekken" if kind == "tekken" else "qwen2")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(chr(i) for i in range(33, 127)), "th"])
    writer.add_token_types([3, 3, 3, *[1] * 95])


def kind_of(pieces: sentencepiece.SentencePieceProcessor, token: int) -> int:
    if pieces.id_to_piece(token) == "<start>":
        return 4  # as the converter reads it from the added tokens beside the model
    kinds = {"is_unknown": 2, "is_control": 3, "is_byte": 6}
    return next((kind for ask, kind in kinds.items() if getattr(pieces, ask)(token)), 1)


def in_llama_layout(case: Case, name: str, value: np.ndarray) -> np.ndarray:
    """A tensor of transformers as llama.cpp's converter lays it out."""
    if case.architecture in ("llama", "mistral3") and re.search(r"[qk]_proj", name):
        heads = case.sizes["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        return value.reshape(heads, 2, len(value) // heads // 2, -1).swapaxes(1, 2).reshape(value.shape)
    if ".linear_attn." in name:
        value = -np.exp(value) if name.endswith("A_log") else value
        return of_value_heads(case, name, value[:, 0] if name.endswith("conv1d.weight") else value, ("keys", "shared"))
    return value + 1 if has_one_added(case, name) else value


def has_one_added(case: Case, name: str) -> bool:
    return case.architecture.startswith(("gemma", "qwen35")) and name.endswith("norm.weight")


def of_value_heads(case: Case, name: str, value: np.ndarray, order: tuple[str, str]) -> np.ndarray:
    """With the value heads of Qwen3.5's linear attention, which lie in that order, in the other one."""
    keys = case.sizes["linear_num_key_heads"]
    counts = {"keys": keys, "shared": case.sizes["linear_num_value_heads"] // keys}

    def moved(x: np.ndarray, axis: int = 0) -> np.ndarray:
        shape = (*x.shape[:axis], *(counts[each] for each in order), -1, *x.shape[axis + 1 :])
        return x.reshape(shape).swapaxes(axis, axis + 1).reshape(x.shape)

    layer = name.partition(".linear_attn.")[2].removesuffix(".weight")
    if layer in ("in_proj_qkv", "conv1d"):
        return np.concatenate([value[: 2 * keys * 128], moved(value[2 * keys * 128 :])])
    if layer == "out_proj":
        return moved(value, 1)
    return value if layer == "norm" else moved(value)


def tensors_of(
    writer: gguf.GGUFWriter, named: Iterator[tuple[str, str, np.ndarray]], stored: str
) -> dict[str, np.ndarray]:
    """Writes tensors; returns what they are when they are read again, by their names in transformers."""
    found = {}
    for name, theirs, value in named:
        if value.ndim == 1:
            writer.add_tensor(name, np.ascontiguousarray(value))
            found[theirs] = value
        elif stored == "F16" or value.shape[-1] % 32 or value.ndim > 2:
            writer.add_tensor(name, value.astype(np.float16))
            found[theirs] = value.astype(np.float16).astype(np.float32)
        else:
            quantized = gguf.quants.quantize(np.ascontiguousarray(value), Q8_0)
            writer.add_tensor(name, quantized, raw_dtype=Q8_0)
            found[theirs] = gguf.quants.dequantize(quantized, Q8_0)
    return found


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def written(case: Case, path: Path, stored: str) -> dict[str, torch.Tensor]:
    """Writes a model as llama.cpp has it; returns it as transformers has it, with the values of the file."""
    state = {name: value.numpy() for name, value in built(case).state_dict().items() if not name.startswith("visual.")}
    names = get_tensor_name_map(next(a for a, n in gguf.MODEL_ARCH_NAMES.items() if n == case.architecture), 99)
    writer = gguf.GGUFWriter(path, case.architecture)
    if "num_attention_heads" in case.sizes:
        writer.add_head_count(case.sizes["num_attention_heads"])
        writer.add_head_count_kv(case.sizes["num_key_value_heads"])
    if "linear_num_key_heads" in case.sizes:
        writer.add_ssm_group_count(case.sizes["linear_num_key_heads"])
        writer.add_ssm_time_step_rank(case.sizes["linear_num_value_heads"])
        writer.add_ssm_state_size(128)
    add_tokenizer(writer, case.tokenizer)
    if case.tokenizer == "gpt2":
        writer.add_tensor("rope_freqs.weight", np.ones(64, np.float32))

    def named() -> Iterator[tuple[str, str, np.ndarray]]:
        for name, value in state.items():
            theirs = name.replace("model.lm_head", "lm_head").replace(".dt_bias", ".dt_proj.bias")
            new = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
            assert new is not None, name
            yield new, name, in_llama_layout(case, name, value)

    found = tensors_of(writer, named(), stored)
    finish(writer)
    return {name: torch.from_numpy(undone(case, name, value).copy()) for name, value in found.items()}


def undone(case: Case, name: str, value: np.ndarray) -> np.ndarray:
    if case.architecture in ("llama", "mistral3") and re.search(r"[qk]_proj", name):
        heads = case.sizes["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        return value.reshape(heads, len(value) // heads // 2, 2, -1).swapaxes(1, 2).reshape(value.shape)
    if ".linear_attn." in name:
        value = of_value_heads(case, name, value, ("shared", "keys"))
        value = np.log(-value) if name.endswith("A_log") else value
        return value[:, None] if name.endswith("conv1d.weight") else value
    return value - 1 if has_one_added(case, name) else value


def transformer(clip: Any) -> Any:
    return next(iter(small_encoders.transformers_of(clip).values()))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_encoders.small_towers(monkeypatch)
    small_encoders.without_mistrals_tokenizer(monkeypatch)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is test_encodes_as_core:
        cases = [(name, stored) for name in CASES for stored in ("F16", "Q8_0")]
        metafunc.parametrize(("name", "stored"), small_encoders.in_turn(metafunc, cases))


def test_encodes_as_core(tmp_path: Path, name: str, stored: str) -> None:
    case = CASES[name]
    tensors = written(case, tmp_path / "encoder.gguf", stored)
    sizes = {f"{case.option}_model_config": dict(case.sizes)}
    header = weights.read_header(tmp_path / "encoder.gguf")
    ours, (held,) = encoders.load_encoders([header], case.type, placement.Placement("CPU"), sizes)
    quantized = {parameter.stored for parameter in held.parameters.values() if len(parameter.shape) == 2}
    assert quantized == {stored} if case.core is not t5.T5 else stored in quantized
    for key in held.shapes():
        value = held.arrays[key] if key in held.arrays else weights.read_parameter(held.parameters[key])
        np.testing.assert_allclose(value, tensors[key].numpy(), atol=1e-6)
    prefix = "model.language_model." if case.architecture == "qwen35" else "model."
    clip_tensors = {name.replace("model.", prefix, 1): value for name, value in tensors.items()}
    if case.tokenizer in ("llama", "t5"):
        clip_tensors["spiece_model"] = spiece_tensor("bpe" if case.tokenizer == "llama" else "unigram")
    kind = getattr(comfy.sd.CLIPType, case.type.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION)
    core = comfy.sd.load_text_encoder_state_dicts(
        [clip_tensors], embedding_directory=[], clip_type=kind, model_options={"dtype": torch.float32, **sizes}
    )
    assert type(ours.tokenizer).__qualname__ == type(core.tokenizer).__qualname__
    assert ours.tokenize(PROMPT) == core.tokenize(PROMPT)
    tokens = torch.tensor([[5, 17, 300, 4, 4, 99, 511]])
    result, expected = encoded(transformer(ours), tokens), encoded(transformer(core), tokens)
    allowed = BOUNDS["T5" if case.core is t5.T5 and stored == "F16" else stored]
    error = float((result - expected).norm() / expected.norm())
    if stored == "Q8_0" and error > allowed:  # depth makes more of the rounding of activations, which torch has not
        round_activations(transformer(core), held)
        rounded = encoded(transformer(core), tokens)
        allowed = ROUNDING * float((rounded - expected).norm() / expected.norm())
    assert error <= allowed


TOWERS = {
    "Qwen2.5 VL 7B": (CASES["Qwen2.5 VL 7B"], "qwen2.5vl_merger", "qwen_image"),
    "Qwen3 VL 4B": (Case("qwen3vl", qwen3vl._make_qwen3vl_model("qwen3vl_4b"), "qwen3vl_4b"), "qwen3vl_merger", "auto"),
    "Qwen3 VL 8B": (Case("qwen3vl", qwen3vl._make_qwen3vl_model("qwen3vl_8b"), "qwen3vl_8b"), "qwen3vl_merger", "auto"),
}


def written_tower(case: Case, kind: str, path: Path) -> dict[str, torch.Tensor]:
    """Writes a vision tower as llama.cpp's mmproj; returns it by ComfyUI's names."""
    prefix = "model." if case.architecture == "qwen3vl" else ""
    state = {name: value for name, value in built(case).state_dict().items() if name.startswith("visual.")}
    names = get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 9)
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_string("clip.projector_type", kind)
    found = {}
    for name, value in state.items():
        found[prefix + name] = value.half().float() if value.ndim > 1 else value
        deep = re.match(r"visual\.deepstack_merger_list\.(\d)\.(?:linear_)?(\w+)\.(\w+)", name)
        if deep:
            new = f"v.deepstack.{qwen3vl.QWEN3VL_VISION[case.option]['deepstack_visual_indexes'][int(deep[1])]}"
            parts = {f"{new}.{deep[2]}.{deep[3]}": value}
        elif re.match(r"visual\.merger\.(norm|linear_fc)", name):
            new = {"norm": "v.post_ln", "linear_fc1": "mm.0", "linear_fc2": "mm.2"}[name.split(".")[2]]
            parts = {f"{new}.{name.split('.')[3]}": value}
        else:
            new = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert new is not None, name
            parts = {new: value}
            if value.ndim == 5:
                parts = {new: value[:, :, 0], f"{new}.1": value[:, :, 1]}
            elif "attn_qkv" in new and kind == "qwen2.5vl_merger":
                parts = {new.replace("qkv", each): x for each, x in zip("qkv", value.chunk(3), strict=True)}
        for new, value in parts.items():
            writer.add_tensor(new, value.contiguous().numpy().astype(np.float16 if value.ndim > 1 else np.float32))
    finish(writer)
    return found


@pytest.mark.parametrize("name", TOWERS)
def test_sees_as_core(tmp_path: Path, name: str) -> None:
    case, kind, model = TOWERS[name]
    tensors = written(case, tmp_path / "encoder.gguf", "F16") | written_tower(case, kind, tmp_path / "mmproj.gguf")
    sizes = {f"{case.option}_model_config": dict(case.sizes)}
    headers = [weights.read_header(tmp_path / name) for name in ("mmproj.gguf", "encoder.gguf")]
    ours, (held,) = encoders.load_encoders(headers, model, placement.Placement("CPU"), sizes)
    assert {path for path, _, _ in held.files} == {header.path for header in headers}
    shapes = held.shapes()
    assert {
        f"model.{name}" if name.startswith("visual.") and case.architecture == "qwen3vl" else name for name in shapes
    } == tensors.keys()
    core = comfy.sd.load_text_encoder_state_dicts(
        [tensors], embedding_directory=[], model_options={"dtype": torch.float32, **sizes}
    )
    picture = {"type": "image", "data": torch.rand(1, 56, 84, 3, generator=torch.Generator().manual_seed(1))}
    (result, _), (expected, _) = (transformer(clip).preprocess_embed(dict(picture), "cpu") for clip in (ours, core))
    assert float((result - expected).norm() / expected.norm()) <= BOUNDS["F16"]


def test_a_tower_alone_is_named(tmp_path: Path) -> None:
    case, kind, _ = TOWERS["Qwen2.5 VL 7B"]
    written_tower(case, kind, tmp_path / "mmproj.gguf")
    written_tower(case, "gemma3", tmp_path / "other.gguf")
    for name, says in (("mmproj", "language model's GGUF file in clip_name1"), ("other", "vision tower \\(gemma3\\)")):
        with pytest.raises(weights.WeightFileError, match=says):
            encoders.load_encoders([weights.read_header(tmp_path / f"{name}.gguf")], "auto", placement.Placement("CPU"))


@pytest.mark.parametrize(
    ("architecture", "way_out"), [("gpt-oss", "as safetensors"), ("gemma4", "GGML Language Model")]
)
def test_what_is_not_read_is_refused_with_the_way_out(tmp_path: Path, architecture: str, way_out: str) -> None:
    writer = gguf.GGUFWriter(tmp_path / "encoder.gguf", architecture)
    for name in ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_norm.weight"):
        writer.add_tensor(name, np.ones((32, 32), np.float16))
    finish(writer)
    header = weights.read_header(tmp_path / "encoder.gguf")
    with pytest.raises(weights.WeightFileError, match=f"encoder.gguf .*{way_out}"):
        encoders.load_encoders([header], "auto", "CPU")


def test_a_model_that_comfyui_knows_by_its_tower_needs_it(tmp_path: Path) -> None:
    written(TOWERS["Qwen3 VL 4B"][0], tmp_path / "encoder.gguf", "F16")
    with pytest.raises(weights.WeightFileError, match="called mmproj"):
        encoders.load_encoders([weights.read_header(tmp_path / "encoder.gguf")], "auto", placement.Placement("CPU"))
