"""Text encoders that core tells by many layers, or calls in another way: tokens encoded by ours and by core's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.pack import part

encoders = part("nodes.loaders.text_encoders")
weights = part("native.weights")

import comfy.ops  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.text_encoders.gemma4 as gemma4  # noqa: E402
import comfy.text_encoders.gpt_oss as gpt_oss  # noqa: E402
import comfy.text_encoders.llama as llama  # noqa: E402
import comfy.text_encoders.lt as lt  # noqa: E402
import comfy.text_encoders.minimax as minimax  # noqa: E402
import comfy.text_encoders.sa3 as sa3  # noqa: E402
import comfy_kitchen.tensor as kitchen  # noqa: E402

from tests import small_encoders  # noqa: E402
from tests.small_encoders import encoded, spiece_tensor, transformers_of  # noqa: E402
from tests.templates.encoders import tokenizer_json  # noqa: E402

from ..parity.model_cases import randomize  # noqa: E402

Tensors = dict[str, torch.Tensor]
PROMPT = "a red square and a dog"
BOUND = 1e-2  # relative L2; weights and activations in F16 through up to 60 layers
NARROW = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2,
          "num_key_value_heads": 1}  # fmt: skip
OF_GPT = NARROW | {"num_hidden_layers": 3, "num_local_experts": 4, "num_experts_per_tok": 2}
EYES = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96, "image_size": 224}


@dataclass(frozen=True)
class Case:
    """core: makes the module of a configuration. options: core's `model_options`, for those that no class gives sizes.

    absent: children of the module of which files have nothing. prompts: core encodes prompts with it; of the others it
    has text written.
    """

    core: Callable[..., torch.nn.Module]
    sizes: Mapping[str, Any]
    tokenizer: str
    absent: tuple[str, ...] = ()
    type: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    prompts: bool = False
    beside: Callable[[], Tensors] | None = None  # the tensors of a second file

    def tensors(self) -> Tensors:
        """As a file has them."""
        module = randomize(self.core(dict(self.sizes), torch.float32, "cpu", comfy.ops.disable_weight_init))
        if isinstance(module, gemma4.Gemma4Base):  # random blocks of full strength magnify rounding without end
            for name, x in module.state_dict().items():
                if name.endswith("layer_scalar"):
                    x.fill_(0.9)
                elif "norm" in name and any(part in name for part in ("post_", "q_norm", "k_norm")):
                    x.mul_(0.2)
        state = {name: x.half() for name, x in module.state_dict().items() if not name.startswith(self.absent)}
        if self.tokenizer == "json":
            return state | {"tokenizer_json": torch.frombuffer(bytearray(tokenizer_json()[1]), dtype=torch.uint8)}
        return state | ({"spiece_model": spiece_tensor(self.tokenizer)} if self.tokenizer else {})


class WithExperts(comfy.ops.disable_weight_init):
    """Core's layers, and its experts with a weight before one is loaded."""

    class MoEExperts(torch.nn.Module):
        def __init__(self, num_experts: int, in_features: int, out_features: int, bias: bool, **_: Any) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.empty(num_experts, out_features, in_features))
            self.bias = torch.nn.Parameter(torch.empty(num_experts, out_features))


def _gpt_oss(config: Mapping[str, Any], dtype: Any, device: str, operations: Any) -> torch.nn.Module:
    return gpt_oss.GptOssModel(gpt_oss.GptOss20BConfig(**config), device=device, dtype=dtype, ops=WithExperts)


def _projection() -> Tensors:
    """Of LTX-2, from all states of its encoder."""
    generator = torch.Generator().manual_seed(2)
    shape = NARROW["hidden_size"], NARROW["hidden_size"] * 49
    return {"text_embedding_projection.aggregate_embed.weight": torch.randn(shape, generator=generator).half() * 0.02}


SENSES = ("vision_model.", "multi_modal_projector.", "audio_model.", "audio_projector.")
_gemma4 = partial(Case, tokenizer="json", absent=SENSES)
CASES = {
    "Gemma 3 12B": Case(llama.Gemma3_12B, NARROW | {"num_hidden_layers": 48}, "bpe", SENSES),
    "LTX-2": Case(
        llama.Gemma3_12B, NARROW | {"num_hidden_layers": 48}, "bpe", SENSES, "ltxv", prompts=True, beside=_projection
    ),
    "Gemma 3 4B with eyes": Case(llama.Gemma3_4B_Vision, NARROW | {"num_hidden_layers": 3}, "bpe"),
    "Gemma 4 E2B": _gemma4(gemma4.Gemma4_E2B, NARROW | {"num_hidden_layers": 35, "hidden_size_per_layer_input": 32}),
    "Gemma 4 E4B": _gemma4(gemma4.Gemma4_E4B, NARROW | {"num_hidden_layers": 42, "hidden_size_per_layer_input": 32}),
    "Gemma 4 12B": _gemma4(gemma4.Gemma4_12B, NARROW | {"num_hidden_layers": 48}),
    "Gemma 4 31B": _gemma4(gemma4.Gemma4_31B, NARROW | {"num_hidden_layers": 60}),
    "T5Gemma": Case(sa3.T5GemmaModel, {}, "bpe", prompts=True),
    "GPT-OSS 20B": Case(
        _gpt_oss,
        OF_GPT,
        "json",
        options={"gpt_oss_config": OF_GPT, "selected_layers": (0, 2), "txt_offset": 1},
        prompts=True,
    ),
    "Qwen3-VL 32B": Case(minimax.MiniMaxQwen3VL, NARROW | {"num_hidden_layers": 50}, ""),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    small_encoders.shrink(monkeypatch, _sizes)
    small_encoders.small_towers(monkeypatch)
    for name, value in EYES.items():
        monkeypatch.setitem(llama.GEMMA3_VISION_CONFIG, name, value)
    original = sa3.T5GemmaEncoderConfig

    def narrow() -> Any:
        config = original()
        vars(config).update(vocab_size=512, hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
                            num_key_value_heads=2, intermediate_size=96)  # fmt: skip
        return config

    monkeypatch.setattr(sa3, "T5GemmaEncoderConfig", narrow)
    built = lt.LTXAVTEModel.__init__

    def with_narrow_projection(self: Any, *args: Any, **kwargs: Any) -> None:
        built(self, *args, **kwargs)
        linear, (rows, columns) = self.gemma3_12b.operations.Linear, next(iter(_projection().values())).shape
        device = self.text_embedding_projection.weight.device
        self.text_embedding_projection = linear(columns, rows, bias=False, dtype=torch.float32, device=device)

    monkeypatch.setattr(lt.LTXAVTEModel, "__init__", with_narrow_projection)


def _sizes(core: Any) -> Mapping[str, Any]:
    return next((case.sizes for case in CASES.values() if case.core is core), {})


def both(name: str, folder: Path) -> tuple[Any, Any]:
    """Ours and core's CLIP of a small file."""
    case = CASES[name]
    return loaded_by_both(case, [case.tensors(), *([case.beside()] if case.beside else [])], folder)


def loaded_by_both(case: Case, files: list[Tensors], folder: Path) -> tuple[Any, Any]:
    """Ours and core's CLIP of these files."""
    headers = []
    for number, tensors in enumerate(files):
        save_file(tensors, folder / f"{number}.safetensors")
        headers.append(weights.read_header(folder / f"{number}.safetensors"))
    with torch.inference_mode():  # as ComfyUI runs nodes
        ours, _ = encoders.load_encoders(headers, case.type, "CPU", dict(case.options))
    kind = getattr(comfy.sd.CLIPType, case.type.upper(), comfy.sd.CLIPType.STABLE_DIFFUSION)
    core = comfy.sd.load_text_encoder_state_dicts(
        [dict(each) for each in files], embedding_directory=[], clip_type=kind,
        model_options={"dtype": torch.float32, **case.options},
    )  # fmt: skip
    assert type(ours.tokenizer).__qualname__ == type(core.tokenizer).__qualname__
    return ours, core


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", small_encoders.in_turn(metafunc, list(CASES)))


def test_encodes_as_core(tmp_path: Path, name: str) -> None:
    ours, core = both(name, tmp_path)
    assert ours.tokenize(PROMPT) == core.tokenize(PROMPT)
    tokens = torch.tensor([[5, 17, 300, 4, 4, 99, 511]])
    with torch.inference_mode():
        if CASES[name].prompts:
            result, expected = (clip.encode_from_tokens(clip.tokenize(PROMPT)) for clip in (ours, core))
        else:
            modules = (next(iter(transformers_of(clip).values())) for clip in (ours, core))
            result, expected = (encoded(module, tokens) for module in modules)
    assert result.shape == expected.shape
    assert float((result - expected).norm() / expected.norm()) <= BOUND


def test_experts_in_nvfp4_encode_as_core(tmp_path: Path) -> None:
    """As ComfyUI's own files of GPT-OSS have them: the matrices of a layer's experts in one tensor of three axes."""
    case = CASES["GPT-OSS 20B"]
    tensors: Tensors = {}
    for name, value in case.tensors().items():
        if value.ndim == 3:
            each = [kitchen.TensorCoreNVFP4Layout.quantize(one.float() * (1 + 2 * n)) for n, one in enumerate(value)]
            codes, parameters = zip(*each, strict=True)
            layer, scales = name.removesuffix(".weight"), [each.block_scale for each in parameters]
            described = json.dumps({"format": "nvfp4", "num_experts": len(value)}).encode()
            tensors |= {
                name: torch.stack(codes), f"{layer}.weight_scale": torch.stack(scales),
                f"{layer}.weight_scale_2": torch.stack([each.scale for each in parameters]),
                f"{layer}.comfy_quant": torch.frombuffer(bytearray(described), dtype=torch.uint8),
            }  # fmt: skip
        else:
            tensors[name] = value
    ours, core = loaded_by_both(case, [tensors], tmp_path)
    held = next(iter(transformers_of(ours).values())).engine_model.file_weights
    assert {each.type for each in held.parameters.values() if len(each.shape) == 3} == {"Q8_0"}
    with torch.inference_mode():
        result, expected = (clip.encode_from_tokens(clip.tokenize(PROMPT)) for clip in (ours, core))
    assert float((result - expected).norm() / expected.norm()) <= BOUND


def test_gemma_3_sees_as_core(tmp_path: Path) -> None:
    picture = {"type": "image", "data": torch.rand(1, 56, 84, 3, generator=torch.Generator().manual_seed(1))}
    with torch.inference_mode():
        (result, _), (expected, _) = (
            next(iter(transformers_of(clip).values())).preprocess_embed(dict(picture), "cpu")
            for clip in both("Gemma 3 4B with eyes", tmp_path)
        )
    assert float((result - expected).norm() / expected.norm()) <= BOUND
