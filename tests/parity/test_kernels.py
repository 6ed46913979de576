"""Kernels of convolutions from files: of three to five dimensions, in every type, in GGUF and safetensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from native.client import Runner
from native.engines.ggml import GgmlModel
from native.placement import DISK, RAM, Placement
from native.weights import WeightSet, read_header
from native.weights.weight_set import parameter_of

from .operation_cases import Parameters
from .places import PLACES, Place

SHAPE = (8, 4, 3, 2, 16)  # out, in, depth, height, width
TORCH = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn}
QUANTIZED = ("Q8_0", "Q4_0")


def _gguf(path: Path, stored: str, kernel: torch.Tensor) -> torch.Tensor:
    """A GGUF file; returns the values it has. Quantized ones are reshaped as ComfyUI-GGUF's converter does it."""
    writer = gguf.GGUFWriter(path, "test")
    number = gguf.GGMLQuantizationType[stored]
    if stored in QUANTIZED:
        data = gguf.quants.quantize(kernel.reshape(-1, 32).numpy(), number)
        writer.add_array("comfy.gguf.orig_shape.w", list(kernel.shape))
        writer.add_tensor("w", data, raw_dtype=number)
    else:
        data = gguf.quants.quantize(kernel.numpy(), number)
        writer.add_tensor("w", data, raw_shape=data.shape, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return torch.from_numpy(gguf.quants.dequantize(data, number).astype(np.float32).reshape(kernel.shape))


def _safetensors(path: Path, stored: str, kernel: torch.Tensor) -> torch.Tensor:
    save_file({"w": kernel.to(TORCH[stored])}, path)
    return kernel.to(TORCH[stored]).float()


def _weights(path: Path) -> WeightSet:
    header = read_header(path)
    parameters = {"w": parameter_of(header, header.tensors["w"], "w")}
    assert parameters["w"].shape == SHAPE
    return WeightSet("a kernel", parameters, ((header.path, header.size, header.mtime_ns),))


FORMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "volume": lambda x, w: F.conv3d(x, w, padding=(1, 1, 0)),
    "patches": lambda x, w: F.conv3d(x[..., :32], w, stride=SHAPE[2:]),
    "line": lambda x, w: F.conv1d(x[:, :, 0, 0], w[:, :, 0, 0], padding=2),
}


@pytest.fixture(params=PLACES[:2], ids=lambda place: place.name, scope="session")
def place(request: pytest.FixtureRequest) -> Place:
    return request.param


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("write", "stored"),
    [*((_gguf, stored) for stored in ("F32", "F16", "BF16", *QUANTIZED)), *((_safetensors, each) for each in TORCH)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_kernel_of_five_dimensions(
    write: Callable[[Path, str, torch.Tensor], torch.Tensor], stored: str, form: str, place: Place, runner: Runner,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Computed as torch computes with the values that the file has."""
    torch.manual_seed(3)
    path = tmp_path / ("w.gguf" if write is _gguf else "w.safetensors")
    values = write(path, stored, torch.randn(SHAPE) * 0.1)
    x = torch.randn(2, 4, 5, 6, 40)
    weights = _weights(path)
    in_f16 = weights.parameters["w"].type == "F16"  # then ggml converts what it convolves to F16
    for residency in (RAM, DISK):
        model = GgmlModel(Parameters({"w": SHAPE}, "meta"), weights, Placement(place.device, residency), None, runner)
        (found,) = model.run(form, lambda m, t: FORMS[form](t["x"], m.w), {"x": x})
        model.unload()
        wanted = FORMS[form](x, values)
        assert float((found - wanted).norm() / wanted.norm()) <= (1e-3 if in_f16 else place.exact)


def test_kernel_in_memory(place: Place, runner: Runner) -> None:
    """As a LoRA's kernel, which no file has."""
    torch.manual_seed(3)
    kernel, x = torch.randn(SHAPE).half(), torch.randn(2, 4, 5, 6, 40)
    weights = WeightSet("a kernel", {}, (), {"w": kernel.numpy()})
    model = GgmlModel(Parameters({"w": SHAPE}, "meta"), weights, place.device, None, runner)
    (found,) = model.run(0, lambda m, t: F.conv3d(t["x"], m.w), {"x": x})
    model.unload()
    wanted = F.conv3d(x, kernel.float())
    assert float((found - wanted).norm() / wanted.norm()) <= 1e-3
