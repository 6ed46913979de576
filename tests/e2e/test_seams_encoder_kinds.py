"""Every kind of text encoder that core tells apart: files in core's names, our loader; against core's own.

Structures are core's, with what its detection goes by; channels, layers and words are few.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
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
import comfy.text_encoders.bert as bert  # noqa: E402
import comfy.text_encoders.jina_clip_2 as jina  # noqa: E402
import comfy.text_encoders.llama as llama  # noqa: E402
import comfy.text_encoders.qwen3vl as qwen3vl  # noqa: E402
import comfy.text_encoders.t5 as t5  # noqa: E402
import comfy.utils  # noqa: E402
from comfy.text_encoders.qwen_vl import Qwen2VLVisionTransformer  # noqa: E402

from tests import small_encoders  # noqa: E402
from tests.small_encoders import SMALL, SMALL_T5, encoded, spiece_tensor, transformers_of  # noqa: E402

from ..parity.model_cases import randomize  # noqa: E402

COMFY = Path(comfy.clip_model.__file__).parent
FEW = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 2, "vocab_size": 512}
# Relative L2: weights and activations in F16, up to 32 layers. T5's attention has no scale, which magnifies rounding.
BOUND, BOUND_OF_T5 = 4e-3, 2e-2


def sizes(core: Any) -> Mapping[str, Any]:
    """The sizes of an encoder that are small here."""
    if core is t5.T5:
        return SMALL_T5
    if core is comfy.clip_model.CLIPTextModel:
        return FEW
    if core in (llama.Llama2, llama.Qwen25_7BVLI):
        heads = 2 if core is llama.Llama2 else 4  # of which 512 channels are Qwen2.5 7B's mark
        return SMALL | {
            "num_hidden_layers": 4,
            "num_key_value_heads": heads,
        }  # HunyuanVideo and -Image take the third from the end
    return FEW | {"num_hidden_layers": 2} if core in (bert.BertModel, jina.XLMRobertaModel) else SMALL


def of_config(core: Any, file: str | None = None, **more: Any) -> dict[str, torch.Tensor]:
    """The tensors of an encoder."""
    config = json.loads((COMFY / file).read_text()) if file else {}
    module = core(config | dict(sizes(core)) | more, torch.float32, "cpu", comfy.ops.disable_weight_init)
    return {name: value.half() for name, value in randomize(module).state_dict().items()}


clip_l = partial(of_config, comfy.clip_model.CLIPTextModel, "sd1_clip_config.json")
clip_h = partial(of_config, comfy.clip_model.CLIPTextModel, "text_encoders/sd2_clip_config.json")
clip_g = partial(of_config, comfy.clip_model.CLIPTextModel, "clip_config_bigg.json")
t5_xxl = partial(of_config, t5.T5, "text_encoders/t5_config_xxl.json")
byt5 = partial(of_config, t5.T5, "text_encoders/byt5_config_small_glyph.json")


def with_tokenizer(build: Callable[[], dict[str, torch.Tensor]], kind: str) -> dict[str, torch.Tensor]:
    return build() | {"spiece_model": spiece_tensor(kind)}


def with_vision(build: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """A whole CLIP, whose other half no text encoder needs."""
    return build() | {
        "vision_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(8, 8),
        "visual_projection.weight": torch.zeros(8, 8),
    }


def with_eyes(build: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """With its vision tower, which OmniGen2's file has and ComfyUI does without."""
    tower = Qwen2VLVisionTransformer(
        hidden_size=64, output_hidden_size=2048, intermediate_size=96, num_heads=4, num_layers=2, dtype=torch.float32,
        device="cpu", ops=comfy.ops.disable_weight_init,
    )  # fmt: skip
    return build() | {f"visual.{name}": value.half() for name, value in randomize(tower).state_dict().items()}


def with_prefixes(core: Any) -> dict[str, torch.Tensor]:
    """As Qwen3-VL is published."""
    return {f"model.{name}" if name.startswith("visual.") else name: x for name, x in of_config(core).items()}


@dataclass(frozen=True)
class Case:
    """Files, and what is chosen for `type`."""

    files: tuple[Callable[[], dict[str, torch.Tensor]], ...]
    type: str = "auto"


def one(core: Any, file: str | None = None, type_: str = "auto", spiece: str | None = None) -> Case:
    build = partial(of_config, core, file)
    return Case((partial(with_tokenizer, build, spiece) if spiece else build,), type_)


CASES = {
    "CLIP-L": Case((clip_l,)),
    "CLIP-L with its vision tower": Case((partial(with_vision, clip_l),)),
    "LongCLIP-L": Case((partial(clip_l, max_position_embeddings=248),)),
    "CLIP-H": Case((clip_h,)),
    "CLIP-G": Case((clip_g,)),
    "SDXL": Case((clip_g, clip_l)),
    "SD3": Case((clip_l, clip_g, t5_xxl), "sd3"),
    "FLUX.1": Case((t5_xxl, clip_l), "flux"),
    "HiDream": Case((clip_l, clip_g, t5_xxl, partial(of_config, llama.Llama2)), "hidream"),
    "HunyuanVideo": Case((partial(of_config, llama.Llama2), clip_l)),
    "HunyuanImage": Case((partial(of_config, llama.Qwen25_7BVLI), byt5), "hunyuan_image"),
    "T5-XXL": one(t5.T5, "text_encoders/t5_config_xxl.json", "pixart"),
    "T5-XXL of LTX-Video": one(t5.T5, "text_encoders/t5_config_xxl.json", "ltxv"),
    "T5-XXL of 2019": one(t5.T5, "text_encoders/t5_old_config_xxl.json"),
    "T5-XL": one(t5.T5, "text_encoders/t5_pile_config_xl.json"),
    "T5-base": one(t5.T5, "text_encoders/t5_config_base.json"),
    "UMT5-base": one(t5.T5, "text_encoders/umt5_config_base.json", "ace", "unigram"),
    "UMT5-XXL": one(t5.T5, "text_encoders/umt5_config_xxl.json", "wan", "unigram"),
    "Qwen2.5 3B": one(llama.Qwen25_3B),
    "Qwen2.5-VL 3B (OmniGen2)": Case((partial(with_eyes, partial(of_config, llama.Qwen25_3B)),), "omnigen2"),
    "Qwen3 0.6B": one(llama.Qwen3_06B),
    "Qwen3 2B (Ovis)": one(llama.Ovis25_2B),
    "Qwen3 4B (Z-Image)": one(llama.Qwen3_4B),
    "Qwen3 8B (FLUX.2 Klein)": one(llama.Qwen3_8B, type_="flux2"),
    "Gemma 2 2B": one(llama.Gemma2_2B, spiece="bpe"),
    "Gemma 3 4B": one(llama.Gemma3_4B, spiece="bpe"),
    "Mistral Small 24B": one(llama.Mistral3Small24B),
    "Ministral 3 3B": one(llama.Ministral3_3B),
    "Kandinsky 5": Case((partial(of_config, llama.Qwen25_7BVLI), clip_l), "kandinsky5"),
    "ACE-Step 1.5": Case(
        (partial(of_config, llama.Qwen3_06B_ACE15), partial(of_config, llama.Qwen3_2B_ACE15_lm)), "ace"
    ),
    "Qwen3-VL 4B (Krea 2)": Case((partial(with_prefixes, qwen3vl._make_qwen3vl_model("qwen3vl_4b")),), "krea2"),
    "Qwen3-VL 8B": Case((partial(with_prefixes, qwen3vl._make_qwen3vl_model("qwen3vl_8b")),)),
    "NewBie": Case((one(llama.Gemma3_4B, spiece="bpe").files[0], one(jina.XLMRobertaModel, spiece="bpe").files[0])),
}


def length_of(module: Any) -> int:
    """The tokens that an encoder takes: all positions of a CLIP, some of others."""
    embeddings = getattr(getattr(module, "text_model", None), "embeddings", None)
    return embeddings.position_embedding.weight.shape[0] if embeddings is not None else 9


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", small_encoders.in_turn(metafunc, list(CASES)))


def test_encodes_as_core(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    small_encoders.shrink(monkeypatch, sizes)
    small_encoders.small_towers(monkeypatch)
    monkeypatch.setattr(comfy.utils, "calculate_parameters", lambda *_: 1 << 33)  # as real ones have
    small_encoders.without_mistrals_tokenizer(monkeypatch)
    case = CASES[name]
    tensors = [build() for build in case.files]
    headers = []
    for number, each in enumerate(tensors):
        save_file(each, tmp_path / f"{number}.safetensors")
        headers.append(weights.read_header(tmp_path / f"{number}.safetensors"))
    with torch.inference_mode():  # as ComfyUI runs nodes
        ours, held = encoders.load_encoders(headers, case.type, placement.Placement("CPU"))
    kinds = comfy.sd.CLIPType
    found = {"HunyuanVideo": "HUNYUAN_VIDEO", "NewBie": "NEWBIE"}  # without a `type`
    kind = getattr(kinds, found.get(name, case.type.upper()), kinds.STABLE_DIFFUSION)
    core = comfy.sd.load_text_encoder_state_dicts(
        [dict(each) for each in tensors], embedding_directory=[], clip_type=kind,
        model_options={"dtype": torch.float32},
    )  # fmt: skip
    assert type(ours.tokenizer).__qualname__ == type(core.tokenizer).__qualname__
    assert len(held) == len(case.files)
    theirs = transformers_of(core)
    assert transformers_of(ours).keys() == theirs.keys()
    for part_name, module in transformers_of(ours).items():
        tokens = torch.arange(5, 5 + 7 * length_of(theirs[part_name]), 7).remainder(512)[None]
        result, expected = encoded(module, tokens), encoded(theirs[part_name], tokens)
        assert float((result - expected).norm() / expected.norm()) <= (
            BOUND_OF_T5 if isinstance(theirs[part_name], t5.T5) else BOUND
        ), part_name


def test_a_variant_of_t5_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """UMT5 and T5XXL-Unchained, whose vocabularies are others."""
    small_encoders.shrink(monkeypatch, sizes)
    save_file(t5_xxl(vocab_size=600), tmp_path / "unchained.safetensors")
    header = weights.read_header(tmp_path / "unchained.safetensors")
    with pytest.raises(weights.WeightFileError, match=r"shared.weight is \[600, 64\], where \[512, 64\] is needed"):
        encoders.load_encoders([header], "sd3", placement.Placement("CPU"))


def test_two_encoders_of_several_models_need_a_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_encoders.shrink(monkeypatch, sizes)
    headers = []
    for name, tensors in (("a", t5_xxl()), ("b", clip_g())):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        headers.append(weights.read_header(tmp_path / f"{name}.safetensors"))
    with pytest.raises(weights.WeightFileError, match="Choose it in `type`"):
        encoders.load_encoders(headers, "auto", placement.Placement("CPU"))


def test_long_clip_keeps_its_tokens_with_flux(tmp_path: Path) -> None:
    """The whole CLIP, as it is published, with its vision tower."""
    save_file(
        with_vision(partial(clip_l, max_position_embeddings=248, vocab_size=49408)), tmp_path / "clip.safetensors"
    )
    save_file(t5_xxl(vocab_size=32128), tmp_path / "t5.safetensors")
    headers = [weights.read_header(tmp_path / f"{name}.safetensors") for name in ("t5", "clip")]
    clip, _ = encoders.load_encoders(headers, "flux", "CPU")
    tokens = clip.tokenize("a red square and " * 40)["l"]
    assert [len(each) for each in tokens] == [248]
    assert clip.encode_from_tokens(clip.tokenize("a red square"), return_pooled=True)[1].shape == (1, 128)
