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
from native.lower.handlers import convolution, convolution_transposed
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


Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _model(kernel: torch.Tensor, device: str, runner: Runner | None = None) -> GgmlModel:
    weights = WeightSet("a kernel", {}, (), {"w": kernel.numpy()})
    return GgmlModel(Parameters({"w": tuple(kernel.shape)}, "meta"), weights, device, None, runner)


def _error(function: Function, kernel: torch.Tensor, x: torch.Tensor, place: Place, runner: Runner) -> float:
    model = _model(kernel, place.device, runner)
    (found,) = model.run(0, lambda m, t: function(m.w, t["x"]), {"x": x})
    model.unload()
    wanted = function(kernel.float(), x)
    return float((found - wanted).norm() / wanted.norm())


def _operations(function: Function, kernel: torch.Tensor, x: torch.Tensor) -> list[str]:
    lowered = _model(kernel, "CPU").lowered(0, lambda m, t: function(m.w, t["x"]), {"x": x})
    return [tensor.name for tensor in lowered.program.tensors if tensor.kind == "op"]


FORMS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "volume": lambda x, w: F.conv3d(x, w, padding=(1, 1, 0)),
    "patches": lambda x, w: F.conv3d(x[..., :32], w, stride=SHAPE[2:]),
    "line": lambda x, w: F.conv1d(x[:, :, 0, 0], w[:, :, 0, 0], padding=2),
}


# A fixture `place` of this file's own would be given the runner of another file's last place.
ON = pytest.mark.parametrize("place", PLACES[:2], ids=lambda place: place.name, indirect=True, scope="session")


@ON
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


@ON
@pytest.mark.parametrize(
    ("shape", "padding", "stride", "dilation"),
    [((1, 4, 9, 6, 7), (1, 1, 1), (1, 1, 1), (1, 1, 1)), ((2, 4, 9, 6, 7), (2, 0, 1), (2, 1, 1), (2, 1, 1)),
     ((1, 4, 3, 12, 7), (1, 1, 1), (1, 2, 1), (1, 2, 1))],
)  # fmt: skip
def test_large_volume(
    shape: tuple[int, ...], padding: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...],
    place: Place, runner: Runner, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One part of the frames after the other, or of the rows."""
    monkeypatch.setattr(convolution, "LARGEST_OPERATION", 1.5e5)
    torch.manual_seed(3)
    kernel, x = torch.randn(8, 4, 3, 3, 3), torch.randn(shape)

    def convolved(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.conv3d(x, w, None, stride, padding, dilation)

    assert _error(convolved, kernel, x, place, runner) <= place.exact
    assert _operations(convolved, kernel, x).count("conv_3d") > 1


def test_patches_are_a_product() -> None:
    """Which writes each patch's channels next to each other, as the tokens that a transformer takes: none is copied."""

    def normed(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(F.conv3d(x, w, stride=(1, 2, 2)).flatten(2).transpose(1, 2), (48,))

    names = _operations(normed, torch.randn(48, 4, 1, 2, 2), torch.randn(1, 4, 3, 6, 8))
    assert "conv_3d" not in names
    assert set(names[names.index("mul_mat") + 1 :]) <= {"norm", "reshape", "view"}


@ON
@pytest.mark.parametrize("groups", [1, 3])
def test_large_spread(groups: int, place: Place, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transposed convolution, one part of the channels after the other."""
    monkeypatch.setattr(convolution_transposed, "SPREAD_BYTES", 512)
    torch.manual_seed(3)
    kernel, x = torch.randn(6, 5, 4), torch.randn(2, 6, 11)

    def convolved(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.conv_transpose1d(x, w, None, 2, 1, groups=groups)

    assert _error(convolved, kernel, x, place, runner) <= place.exact
    assert _operations(convolved, kernel, x).count("mul_mat") > 1


@ON
def test_kernel_in_memory(place: Place, runner: Runner) -> None:
    """As a LoRA's kernel, which no file has."""
    torch.manual_seed(3)
    kernel, x = torch.randn(SHAPE).half(), torch.randn(2, 4, 5, 6, 40)
    assert _error(lambda w, x: F.conv3d(x, w), kernel, x, place, runner) <= 1e-3
