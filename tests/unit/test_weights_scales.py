"""Quantized weights of safetensors: bytes of comfy_kitchen's own quantizers, and what it makes of them again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy_kitchen.tensor as kitchen
import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from native.engines.torch_cpu import weight_reader
from native.weights import (
    Parameter,
    WeightFileError,
    WeightSet,
    convert,
    pieces,
    read_header,
    read_parameter,
    read_rows,
)
from native.weights.convert import reader
from native.weights.runs import between
from native.weights.scales import under
from native.weights.scaling import hadamard
from native.weights.weight_set import parameter

ROWS, COLUMNS = 288, 1280  # rows beyond two swizzled blocks; groups of 16 and 32 that fill no block of four
Quantized = tuple[dict[str, Tensor], Tensor]  # tensors of the file by what follows the layer's name; float32 values


def _weight(rows: int = ROWS, columns: int = COLUMNS) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(5)) * 0.05


def _kitchen(layout: str, format_: str, options: dict[str, Any] | None = None, **more: Any) -> Callable[[], Quantized]:
    """A layout of comfy_kitchen, as comfy/ops.py saves it. more: of the layer's description."""

    def quantize() -> Quantized:
        kind = getattr(kitchen, layout)
        codes, parameters = kind.quantize(_weight(), **(options or {}))
        found = {f".weight{ending}": value for ending, value in kind.state_dict_tensors(codes, parameters).items()}
        found = {name: value.view(torch.uint8) if value.dtype == torch.float8_e8m0fnu else value
                 for name, value in found.items()}  # fmt: skip
        return found | _described(format=format_, **more), kind.dequantize(codes, parameters)

    return quantize


def _described(**description: Any) -> dict[str, Tensor]:
    return {".comfy_quant": torch.tensor(list(json.dumps(description).encode()), dtype=torch.uint8)}


def _fp8(scale: Tensor, ending: str, dtype: torch.dtype = torch.float8_e4m3fn) -> Callable[[], Quantized]:
    """FP8 with these factors, one for every row or every block of 128 by 128."""

    def quantize() -> Quantized:
        factors = scale.reshape(-1, 1) if scale.ndim < 2 else scale
        if factors.shape[1] > 1:
            factors = factors.repeat_interleave(128, 0).repeat_interleave(128, 1)[:ROWS, :COLUMNS]
        codes = (_weight() / factors).to(dtype)
        return {".weight": codes, ending: scale}, codes.float() * factors

    return quantize


def _smoothed() -> Quantized:
    """NVFP4 of a layer whose input is multiplied first, which comes to the same for the weight's columns."""
    tensors, values = _kitchen("TensorCoreNVFP4Layout", "nvfp4")()
    smooth = torch.rand(COLUMNS) + 0.5
    return tensors | {".pre_quant_scale": smooth.bfloat16()}, values * smooth.bfloat16().float()


SOME = torch.rand(3, 10, generator=torch.Generator().manual_seed(6)) * 1e-3 + 1e-4
ROW = torch.rand(ROWS, generator=torch.Generator().manual_seed(7)) * 1e-3 + 1e-4
FORMATS: dict[str, tuple[Callable[[], Quantized], str]] = {  # and the type that the weight is loaded as
    "fp8": (_kitchen("TensorCoreFP8Layout", "float8_e4m3fn"), "F16"),
    "fp8 e5m2": (_kitchen("TensorCoreFP8Layout", "float8_e5m2", {"dtype": torch.float8_e5m2}), "F16"),
    "fp8 rows": (_fp8(ROW, ".weight_scale"), "F16"),
    "fp8 rows e5m2": (_fp8(ROW[:, None].bfloat16(), ".weight_scale", torch.float8_e5m2), "F16"),
    "fp8 rows beyond F16": (_fp8(ROW * 1e6, ".scale_weight"), "F32"),
    "fp8 blocks": (_fp8(SOME, ".weight_scale_inv"), "F16"),
    "int8": (_kitchen("TensorWiseINT8Layout", "int8_tensorwise"), "Q8_0"),
    "int8 rows": (_kitchen("TensorWiseINT8Layout", "int8_tensorwise", {"per_channel": True}), "Q8_0"),
    "int8 convrot": (
        _kitchen("TensorWiseINT8Layout", "int8_tensorwise", {"per_channel": True, "convrot": True}, convrot=True),
        "F16",
    ),
    "int8 convrot 64": (
        _kitchen(
            "TensorWiseINT8Layout", "int8_tensorwise",
            {"per_channel": True, "convrot": True, "convrot_groupsize": 64},
            params={"convrot": True, "convrot_groupsize": 64},
        ),
        "F16",
    ),
    "int4 convrot": (_kitchen("TensorCoreConvRotW4A4Layout", "convrot_w4a4"), "Q8_0"),
    "mxfp8": (_kitchen("TensorCoreMXFP8Layout", "mxfp8"), "F16"),
    "nvfp4": (_kitchen("TensorCoreNVFP4Layout", "nvfp4"), "Q8_0"),
    "nvfp4 smoothed": (_smoothed, "Q8_0"),
}  # fmt: skip


def held_as(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Parameter:
    save_file({f"layer{name}": value.contiguous() for name, value in tensors.items()}, path, metadata)
    found = under(read_header(str(path)), "")
    assert set(found) == {"layer.weight"}
    stored = found["layer.weight"]
    return parameter("w", stored.shape, stored.runs, [stored])


def turned(held: Parameter, path: Path) -> Parameter:
    """The same weight in a linear layer, which can turn what it multiplies."""
    stored = under(read_header(str(path)), "")["layer.weight"]
    return parameter("w", held.shape, held.runs, [stored], role="linear")


def loaded(held: Parameter, limit: int) -> np.ndarray:
    """The loaded tensor's values, put together from pieces as the runner does."""
    result = np.full(held.weight_bytes, 0xEE, np.uint8)
    with reader("w") as read:
        for piece in pieces(held, limit):
            part = convert(held.type, piece.run, read).view(np.uint8)
            result[piece.target : piece.target + piece.target_nbytes] = part
    if held.type in ("Q8_0", "Q4_0"):
        return gguf.quants.dequantize(result, gguf.GGMLQuantizationType[held.type]).reshape(held.shape)
    return result.view({"F16": np.float16, "F32": np.float32}[held.type]).reshape(held.shape)


def same(name: str, got: np.ndarray, expected: np.ndarray, rounded: bool = False) -> None:
    """Equal; but sums of turned columns, and products of two factors, depend on their order.

    rounded: to F16 or 8 bits, where such a difference may lead to the next number.
    """
    atol = (2e-3 if rounded else 3e-7) if "convrot" in name else 3e-8 if "smoothed" in name else 0
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", FORMATS)
def test_values_are_those_of_the_quantizer(tmp_path: Path, name: str) -> None:
    quantize, type_ = FORMATS[name]
    tensors, expected = quantize()
    held = held_as(tmp_path / "model.safetensors", tensors)
    assert (held.type, held.shape) == (type_, (ROWS, COLUMNS))
    got = read_parameter(held)
    same(name, got, expected.numpy())
    same(name, read_rows(held, [271, 3, 3]), got[[271, 3, 3]])
    whole = loaded(held, 1 << 30)
    same(name, loaded(held, 50_000), whole, rounded=True)
    if type_ == "Q8_0":
        error = np.linalg.norm(whole - got) / np.linalg.norm(got)
        assert error < (5e-4 if "int8" in name else 6e-3)  # a scale in F16; besides that, codes of 8 bits for 4
    else:
        same(name, whole, got.astype(whole.dtype), rounded=True)


@pytest.mark.parametrize("name", ["fp8 rows", "fp8 blocks", "int8 convrot 64", "nvfp4"])
def test_the_torch_engine_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(weight_reader, "CHUNK", 5000)
    monkeypatch.setattr(weight_reader, "SCRATCH", 40 * COLUMNS)
    path = tmp_path / "model.safetensors"
    held = held_as(path, FORMATS[name][0]()[0])
    status = path.stat()
    read = weight_reader.Values(WeightSet("", {"w": held}, ((str(path), status.st_size, status.st_mtime_ns),)))
    expected = read_parameter(held)
    same(name, read.whole("w").numpy(), expected)
    runs = torch.cat([run.clone() for _, run in read.by_rows("w", torch.float32)])
    same(name, runs.numpy(), expected)
    read.close()


@pytest.mark.parametrize("name", ["fp8 rows", "fp8 blocks", "int8 rows", "mxfp8", "nvfp4", "int4 convrot"])
def test_rows_of_a_matrix_keep_their_factors(tmp_path: Path, name: str) -> None:
    held = held_as(tmp_path / "model.safetensors", FORMATS[name][0]()[0])
    runs = tuple(between(held.runs, 131 * COLUMNS, 269 * COLUMNS))
    part = Parameter("w", held.type, (138, COLUMNS), runs)
    same(name, read_parameter(part), read_parameter(held)[131:269])
    same(name, loaded(part, 70_000), loaded(held, 1 << 30)[131:269], rounded=True)
    with pytest.raises(ValueError, match="no whole blocks or rows"):
        tuple(between(held.runs, 64, 128))


@pytest.mark.parametrize("name", ["int8 convrot", "int8 convrot 64", "int4 convrot"])
def test_a_linear_layers_columns_stay_turned(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    held = held_as(path, FORMATS[name][0]()[0])
    kept = turned(held, path)
    assert (kept.type, kept.rotation) == {
        "int8 convrot": ("Q8_0", 256),
        "int8 convrot 64": ("Q8_0", 64),
        "int4 convrot": ("Q4_0", 256),
    }[name]
    values = loaded(kept, 50_000)
    codes = torch.from_numpy(values).view(ROWS, -1, kept.rotation) @ torch.from_numpy(hadamard(kept.rotation)).float()
    expected = read_parameter(kept)
    np.testing.assert_array_equal(expected, read_parameter(held))
    error = np.linalg.norm(codes.view(ROWS, COLUMNS).numpy() - expected) / np.linalg.norm(expected)
    assert error < 5e-4  # the scale in F16


def test_an_int8_scale_too_small_for_f16_is_not_lost(tmp_path: Path) -> None:
    codes = torch.randint(-127, 128, (8, 64), dtype=torch.int8)
    held = held_as(tmp_path / "model.safetensors", {".weight": codes, ".weight_scale": torch.full((8, 1), 3.1e-7)})
    assert held.type == "F16"
    np.testing.assert_allclose(loaded(held, 1 << 20), codes.numpy() * 3.1e-7, atol=3e-8)


def test_the_metadata_describes_layers_too(tmp_path: Path) -> None:
    tensors, expected = FORMATS["int8 convrot"][0]()
    description = json.loads(bytes(tensors.pop(".comfy_quant").tolist()))
    metadata = {"_quantization_metadata": json.dumps({"layers": {"layer": description}})}
    held = held_as(tmp_path / "model.safetensors", tensors, metadata)
    np.testing.assert_allclose(read_parameter(held), expected.numpy(), atol=2e-7)


def test_scales_in_another_file_of_the_model(tmp_path: Path) -> None:
    tensors, expected = FORMATS["mxfp8"][0]()
    apart = {f"layer{name}": value.contiguous() for name, value in tensors.items()}
    scale = {"other": torch.zeros(3, 5), "layer.weight_scale": apart.pop("layer.weight_scale")}
    save_file(scale, tmp_path / "model-00001-of-00002.safetensors")
    save_file(apart, tmp_path / "model-00002-of-00002.safetensors")
    stored = under(read_header(str(tmp_path / "model-00002-of-00002.safetensors")), "")["layer.weight"]
    held = parameter("w", stored.shape, stored.runs, [stored])
    np.testing.assert_array_equal(read_parameter(held), expected.numpy())


def _without(name: str, *endings: str, **changed: Tensor) -> dict[str, Tensor]:
    tensors = FORMATS[name][0]()[0]
    return {ending: value for ending, value in tensors.items() if ending not in endings} | {
        f".{ending}": value for ending, value in changed.items()
    }


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (_without("int8", ".weight_scale"), "INT8 without a scale"),
        (_without("nvfp4", ".weight_scale_2"), "NVFP4 without its two scales"),
        (_without("nvfp4", weight_scale=torch.zeros(4, 4, dtype=torch.uint8)), r"\[4, 4\] where .* belong"),
        (_without("mxfp8", ".weight_scale"), "MXFP8 without scales"),
        (_without("int8 rows", weight_scale=torch.ones(ROWS, dtype=torch.int64)), "stored as I64"),
        (_without("int8 convrot", weight=torch.zeros((), dtype=torch.int8)), "fit no blocks"),
        (_without("int8 rows", weight=torch.zeros(0, 64, dtype=torch.int8), weight_scale=torch.ones(1)), "is empty"),
        (_without("int8 rows", weight=torch.zeros(2, 3, 64, dtype=torch.int8), weight_scale=torch.ones(6)),
         "read of matrices alone"),
        (_without("fp8", weight_scale=torch.ones(7, 5)), r"\[7, 5\], which fit no blocks"),
        (_without("fp8 rows", weight_scale=torch.full((ROWS,), torch.inf)), "scales that are infinite"),
        (_without("fp8", comfy_quant=_described(format="q5_cr")[".comfy_quant"]), "quantized as 'q5_cr'"),
        (_without("fp8", comfy_quant=torch.zeros(3, dtype=torch.uint8)), "what is not JSON"),
        (_without("int8 convrot", **_described(format="int8_tensorwise", convrot=True, convrot_groupsize=100)),
         "turned by groups of 100"),
        (_without("fp8", comfy_quant=_described(format="nvfp4")[".comfy_quant"]), "said to be .* stored as F8"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(tmp_path: Path, tensors: dict[str, Tensor], says: str) -> None:
    tensors = {"." + name.lstrip("."): value for name, value in tensors.items()}
    with pytest.raises(WeightFileError, match=f"model.safetensors.*{says}"):
        held_as(tmp_path / "model.safetensors", tensors)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("weight", "weight.absmax", "weight.quant_state.bitsandbytes__nf4"), "bitsandbytes NF4"),
        (("weight", "SCB"), r"bitsandbytes LLM.int8\(\)"),
        (("qweight", "wscales", "proj_down"), "SVDQuant for nunchaku"),
        (("qweight", "qzeros", "scales", "g_idx"), "GPTQ"),
        (("qweight", "qzeros", "scales"), "AWQ"),
        (("weight._data", "weight._scale"), "optimum-quanto"),
        (("_weight_qdata", "_weight_scale"), "torchao"),
        (("weight_packed", "weight_scale", "weight_shape"), "compressed-tensors"),
    ],
)
def test_quantizations_of_other_programs_are_named(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    tensors = {f".{name}": torch.zeros(4, 4, dtype=torch.uint8) for name in names}
    with pytest.raises(WeightFileError, match=rf"model.safetensors is quantized by {says} \(it has layer\."):
        held_as(tmp_path / "model.safetensors", tensors)
