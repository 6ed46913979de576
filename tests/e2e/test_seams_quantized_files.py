"""A diffusion model in every quantized format of safetensors: our loader and core's, on one file or its values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy_kitchen.tensor as kitchen
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests import core_models, random_models
from tests.conftest import SIXTHS
from tests.pack import part

from .small_diffusion import Small
from .test_seams_any_diffusion import sampled
from .test_seams_any_encoder import LAYERS, qwen3

loader = part("nodes.loaders.diffusion")
encoders = part("nodes.loaders.text_encoders")
placement = part("native.placement")
weights = part("native.weights")

import comfy.sd  # noqa: E402

from ..parity.model_cases import randomize  # noqa: E402

QWEN3_SIZES = {"qwen3_06b_model_config": LAYERS}
Layer = tuple[dict[str, Tensor], Tensor]  # what follows the layer's name in the file; the weight's values
FLUX = Small("Flux", dict, text=random_models.FLUX["context_in_dim"], pooled=random_models.FLUX["vec_in_dim"])


def _of_kitchen(layout: str, format_: str, options: dict[str, Any], description: dict[str, Any]) -> Any:
    def quantize(weight: Tensor) -> Layer:
        kind = getattr(kitchen, layout)
        codes, parameters = kind.quantize(weight, **options)
        found = {f"weight{ending}": value for ending, value in kind.state_dict_tensors(codes, parameters).items()}
        found = {key: value.view(torch.uint8) if value.dtype == torch.float8_e8m0fnu else value.contiguous()
                 for key, value in found.items()}  # fmt: skip
        return found | _described(format=format_, **description), kind.dequantize(codes, parameters)

    return quantize


def _described(**description: Any) -> dict[str, Tensor]:
    return {"comfy_quant": torch.tensor(list(json.dumps(description).encode()), dtype=torch.uint8)}


def _fp8_rows(weight: Tensor) -> Layer:
    scale = weight.abs().amax(1, keepdim=True) / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": scale}, codes.float() * scale


def _fp8_blocks(weight: Tensor) -> Layer:
    rows, columns = weight.shape
    tiles = torch.nn.functional.pad(weight, (0, -columns % 128, 0, -rows % 128)).unfold(0, 128, 128).unfold(1, 128, 128)
    scale = tiles.abs().amax((2, 3)) / 448
    every = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :columns]
    codes = (weight / every).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale_inv": scale}, codes.float() * every


CONVROT = {"convrot": True, "convrot_groupsize": 256}
FORMATS: dict[str, tuple[Callable[[Tensor], Layer], str]] = {  # and the type on the device
    "fp8": (_of_kitchen("TensorCoreFP8Layout", "float8_e4m3fn", {}, {}), "F16"),
    "fp8 rows": (_fp8_rows, "F16"),
    "fp8 blocks": (_fp8_blocks, "F16"),
    "int8 rows": (_of_kitchen("TensorWiseINT8Layout", "int8_tensorwise", {"per_channel": True}, {}), "Q8_0"),
    "int8 convrot": (
        _of_kitchen("TensorWiseINT8Layout", "int8_tensorwise", {"per_channel": True} | CONVROT, CONVROT), "Q8_0",
    ),
    "int4 convrot": (_of_kitchen("TensorCoreConvRotW4A4Layout", "convrot_w4a4", {}, {}), "Q4_0"),
    "mxfp8": (_of_kitchen("TensorCoreMXFP8Layout", "mxfp8", {}, {}), "F16"),
    "nvfp4": (_of_kitchen("TensorCoreNVFP4Layout", "nvfp4", {}, {}), "Q8_0"),
}  # fmt: skip
DEQUANTIZED = ("fp8", "mxfp8", "nvfp4")  # by core on the CPU; of INT8 it rounds activations too
ON_VULKAN = ("fp8 blocks", "int8 convrot", "int4 convrot")
BOUND = {
    "F16": 1e-3,
    "Q8_0": 1e-2,
    "Q4_0": 1e-2,
}  # relative L2; the CPU rounds activations to 8 bits


def quantized(quantize: Callable[[Tensor], Layer]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a FLUX.1 whose blocks are quantized, and the same with the values of those."""
    stored, values = {}, {}
    for name, value in random_models.flux().items():
        layer = name.removesuffix(".weight")
        if value.ndim == 2 and "_blocks." in name and layer != name:
            tensors, values[name] = quantize(value.float())
            stored |= {f"{layer}.{ending}": tensor for ending, tensor in tensors.items()}
        else:
            stored[name], values[name] = value, value
    return stored, values


def compared(name: str, path: Path, device: str) -> float:
    quantize, type_ = FORMATS[name]
    stored, values = quantized(quantize)
    save_file(stored, path)
    with torch.inference_mode():  # as in ComfyUI, where core's quantized tensors need it
        expected = sampled(core_models.core_model(stored if name in DEQUANTIZED else values), FLUX)
    ours = loader.load_diffusion(weights.read_header(path), device)
    held = ours.model.diffusion_model.engine_model.file_weights
    assert not held.arrays
    assert held.parameters["double_blocks.0.img_attn.qkv.weight"].type == type_
    return core_models.relative_error(sampled(ours, FLUX), expected)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A sixth of the formats each day, or all of them."""
    if "format_" in metafunc.fixturenames:
        option = metafunc.config.getoption
        metafunc.parametrize(
            "format_", list(FORMATS) if option("--all") else list(FORMATS)[option("--sample") % SIXTHS :: SIXTHS]
        )


def test_a_quantized_file_samples_as_its_values_do_in_core(tmp_path: Path, format_: str) -> None:
    error = compared(format_, tmp_path / "flux.safetensors", "CPU")
    assert error <= BOUND[FORMATS[format_][1]]


@pytest.mark.parametrize("name", ON_VULKAN)
def test_a_quantized_file_on_vulkan(tmp_path: Path, name: str) -> None:
    error = compared(name, tmp_path / "flux.safetensors", "Vulkan0")
    assert error <= BOUND[FORMATS[name][1]]


def test_a_quantized_text_encoder(tmp_path: Path) -> None:
    """INT8 with turned columns in its layers, and a scale for every row of its embeddings, which are looked up."""
    tensors = {name: value.half() for name, value in randomize(qwen3()).state_dict().items()}
    stored, values = {}, {}
    for name, value in tensors.items():
        layer = name.removesuffix(".weight")
        if value.ndim == 2:
            kind = "int8 rows" if "embed" in name else "int8 convrot"
            made, values[name] = FORMATS[kind][0](value.float())
            stored |= {f"{layer}.{ending}": tensor for ending, tensor in made.items()}
        else:
            stored[name], values[name] = value, value
    save_file(stored, tmp_path / "encoder.safetensors")
    options = {"dtype": torch.float32, **QWEN3_SIZES}
    core = comfy.sd.load_text_encoder_state_dicts([values], embedding_directory=[], model_options=options)
    header = weights.read_header(tmp_path / "encoder.safetensors")
    ours, held = encoders.load_encoders([header], "auto", placement.Placement("CPU"), QWEN3_SIZES)
    assert {each.rotation for part in held for each in part.parameters.values()} == {0, 256}
    found, expected = (clip.encode_from_tokens(clip.tokenize("a red square and a dog")) for clip in (ours, core))
    assert core_models.relative_error(found, expected) <= 2e-2
