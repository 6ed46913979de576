"""Quantized layers that are more than a matrix: padded rows and columns, stacked experts; against core's own layers.

And tables that a module has beside its layers, which no device reads as blocks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.pack import part

component = part("nodes.components.component")
build = part("nodes.components.build")
recording = part("nodes.components.recording")
weights = part("native.weights")

import comfy.ops  # noqa: E402
import comfy_kitchen.tensor as kitchen  # noqa: E402

Tensors = dict[str, Tensor]
EXPERTS, OUT, IN = 3, 96, 64
LAYOUTS = {
    "mxfp8": "TensorCoreMXFP8Layout", "nvfp4": "TensorCoreNVFP4Layout", "int8_tensorwise": "TensorWiseINT8Layout",
    "float8_e4m3fn": "TensorCoreFP8Layout",
}  # fmt: skip
CORE = comfy.ops.mixed_precision_ops({}, torch.float32, full_precision_mm=True)


def quantized(format_: str, weight: Tensor) -> Tensors:
    """The tensors of a layer in a file."""
    layout = getattr(kitchen, LAYOUTS[format_])
    codes, parameters = layout.quantize(weight, **({"per_channel": True} if format_ == "int8_tensorwise" else {}))
    found = {f"weight{ending}": value for ending, value in layout.state_dict_tensors(codes, parameters).items()}
    return {k: x.view(torch.uint8) if x.dtype == torch.float8_e8m0fnu else x.contiguous() for k, x in found.items()}


def described(**description: Any) -> Tensor:
    return torch.tensor(list(json.dumps(description).encode()), dtype=torch.uint8)


def random(*shape: int) -> Tensor:
    """Values that are larger by row and expert, so that a wrong scale is seen."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return values * torch.arange(1, 1 + shape[0]).reshape(-1, *[1] * (len(shape) - 1))


def save(tensors: Tensors, path: Path) -> None:
    """A file of a layer."""
    save_file({f"layer.{name}": value.contiguous() for name, value in tensors.items()}, path)


def held(path: Path, layer: torch.nn.Module) -> Any:
    """The weights of a layer without values, loaded from a file as ComfyUI loads it."""
    module = torch.nn.ModuleDict({"layer": layer})
    made = recording.Recording(weights.read_header(path))
    with made, torch.no_grad():
        module.load_state_dict(dict(made.state_dict), strict=False)
    return build.weights_of(module, made, "a layer")


def values(found: Any, name: str = "layer.weight") -> np.ndarray:
    """The values of a parameter, from the file or computed."""
    return found.arrays[name] if name in found.arrays else weights.read_parameter(found.parameters[name])


@pytest.mark.parametrize("format_", ["mxfp8", "nvfp4"])
@pytest.mark.parametrize(("rows", "columns"), [(40, 64), (33, 64), (40, 72), (64, 72)])
def test_padding_is_left_out_as_core_does(tmp_path: Path, format_: str, rows: int, columns: int) -> None:
    tensors = quantized(format_, random(rows, columns)) | {"comfy_quant": described(format=format_)}
    core = CORE.Linear(columns, rows, bias=False)
    core.load_state_dict(dict(tensors), strict=False)
    save(tensors, tmp_path / "layer.safetensors")
    found = held(tmp_path / "layer.safetensors", component.MetaOperations.Linear(columns, rows, bias=False))
    padding = 32 if format_ == "mxfp8" else 16
    assert ("layer.weight" in found.parameters) == (columns % padding == 0)  # whole rows are read in place
    expected = core.weight.dequantize()[:rows, :columns]
    rounded = 1e-6 if columns % padding == 0 else 1e-3  # to F16 where it is computed
    np.testing.assert_allclose(values(found), expected.float().numpy(), rtol=rounded)


def test_a_file_of_another_size_is_no_padding(tmp_path: Path) -> None:
    save(quantized("nvfp4", random(64, 64)) | {"comfy_quant": described(format="nvfp4")}, tmp_path / "a")
    with pytest.raises(RuntimeError, match="size mismatch"):
        held(tmp_path / "a", component.MetaOperations.Linear(64, 40, bias=False))
    save({"weight": random(48, 64)}, tmp_path / "b")  # what is not quantized is never padded
    with pytest.raises(RuntimeError, match="size mismatch"):
        held(tmp_path / "b", component.MetaOperations.Linear(64, 40, bias=False))


@pytest.mark.parametrize(
    ("format_", "type_"), [("nvfp4", "Q8_0"), ("mxfp8", "F16"), ("int8_tensorwise", "Q8_0"), ("float8_e4m3fn", "F16")]
)
def test_experts_have_scales_of_their_own(tmp_path: Path, format_: str, type_: str) -> None:
    each = [quantized(format_, one) for one in random(EXPERTS, OUT, IN)]
    tensors = {key: torch.stack([one[key] for one in each]) for key in each[0]}
    tensors["comfy_quant"] = described(format=format_, num_experts=EXPERTS)
    core = CORE.MoEExperts(EXPERTS, IN, OUT, bias=False)
    core.load_state_dict(dict(tensors), strict=False)
    save(tensors, tmp_path / "experts.safetensors")
    found = held(tmp_path / "experts.safetensors", component.MetaOperations.MoEExperts(EXPERTS, IN, OUT, bias=False))
    assert found.parameters["layer.weight"].type == type_
    for number, loaded in enumerate(values(found)):
        expected = core.expert_weight(number).dequantize().float().numpy()
        np.testing.assert_allclose(loaded, expected, rtol=1e-6)


TYPES = {"layer.experts.weight": "Q8_0", "layer.shifts": "F32"}


def q8_0(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blocks, and the values that they have."""
    blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    return blocks, gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)


def test_experts_and_tables_of_a_gguf_file(tmp_path: Path) -> None:
    """Experts stay blocks, as products can be made of them; a table of shifts and scales does not."""

    class Mixture(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = component.MetaOperations.MoEExperts(EXPERTS, IN, OUT, bias=False)
            self.shifts = torch.nn.Parameter(torch.empty(2, IN, device="meta"))

    writer = gguf.GGUFWriter(tmp_path / "experts.gguf", "a model")
    blocks, expected = {}, {}
    for name, value in (("experts.weight", random(EXPERTS, OUT, IN)), ("shifts", random(2, IN))):
        blocks[name], expected[name] = q8_0(value.numpy())
        writer.add_tensor(f"layer.{name}", blocks[name], raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = held(tmp_path / "experts.gguf", Mixture())
    assert {name: each.type for name, each in found.parameters.items()} == TYPES
    for name, value in expected.items():
        np.testing.assert_array_equal(values(found, f"layer.{name}"), value)


@pytest.mark.parametrize("type_", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_experts_are_not_widened(tmp_path: Path, type_: torch.dtype) -> None:
    save({"weight": random(EXPERTS, OUT, IN).to(type_)}, tmp_path / "experts.safetensors")
    found = held(tmp_path / "experts.safetensors", component.MetaOperations.MoEExperts(EXPERTS, IN, OUT, bias=False))
    assert found.parameters["layer.weight"].weight_bytes == 2 * EXPERTS * OUT * IN


@pytest.mark.parametrize("damage", [lambda t: t | {"weight_scale": t["weight_scale"][:, :-1].contiguous()},
                                    lambda t: t | {"weight_scale_2": torch.ones(2)}])  # fmt: skip
def test_experts_without_their_scales_are_named(tmp_path: Path, damage: Callable[[Tensors], Tensors]) -> None:
    each = [quantized("nvfp4", one) for one in random(EXPERTS, OUT, IN)]
    tensors = {key: torch.stack([one[key] for one in each]) for key in each[0]}
    save(damage(tensors) | {"comfy_quant": described(format="nvfp4")}, tmp_path / "experts.safetensors")
    with pytest.raises(weights.WeightFileError, match=r"experts.safetensors.*weight"):
        recording.Recording(weights.read_header(tmp_path / "experts.safetensors"))
