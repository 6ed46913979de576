"""The torch engine: what weights stand for, what it holds of them, when it stops, and when it is chosen."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from native.client import Interrupted, RunnerError
from native.engines import choose as engine
from native.engines import cpu_benchmark
from native.engines.ggml import GgmlModel
from native.engines.model import LowRank, Patches
from native.engines.torch_cpu import TorchModel
from native.engines.torch_cpu import weight_reader as values
from native.engines.torch_cpu.dequantize import BLOCKS
from native.ggml_types import FLOATS, LAYOUTS, tensor_bytes
from native.lower import LowerOptions
from native.placement import AUTO, DEVICE, GGML, TORCH, Placement
from native.weights import WeightFileError, WeightSet, read_parameter
from tests.runner_toys import weight_file

OTHERS = [*sorted(FLOATS), "IQ4_XS", "IQ2_XXS", "MXFP4"]
RNG = np.random.default_rng(5)


def random_bytes(type_: str, shape: tuple[int, ...]) -> bytes:
    return RNG.integers(0, 256, tensor_bytes(type_, shape), np.uint8).tobytes()


def small_q8(rows: int, columns: int) -> tuple[str, tuple[int, ...], bytes]:
    stored = gguf.quants.quantize(RNG.standard_normal((rows, columns)).astype("f4"), gguf.GGMLQuantizationType.Q8_0)
    return "Q8_0", (rows, columns), stored.tobytes()


def call(module: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return module(inputs["x"])


def linear(rows: int, columns: int, bias: bool = False) -> torch.nn.Module:
    return torch.nn.Linear(columns, rows, bias=bias, device="meta")


@pytest.mark.parametrize("count", [1, 7, 5000])
@pytest.mark.parametrize("type_", sorted(BLOCKS))
def test_blocks_are_the_gguf_packages_bit_for_bit(type_: str, count: int) -> None:
    """Any bytes, so that scales are negative, tiny, infinite and no numbers too."""
    raw = RNG.integers(0, 256, (count, LAYOUTS[type_].nbytes), np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[type_])
    found = BLOCKS[type_](torch.from_numpy(raw)).numpy().reshape(expected.shape)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_array_equal(found.view("u4")[~np.isnan(found)], expected.view("u4")[~np.isnan(expected)])


@pytest.mark.parametrize("type_", [*OTHERS, *sorted(BLOCKS)])
def test_weights_of_every_type_are_what_is_read_elsewhere(
    type_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, and by runs of rows cut into chunks."""
    monkeypatch.setattr(values, "CHUNK", 700)
    monkeypatch.setattr(values, "SCRATCH", 1800)
    shape = (9, 512)
    tensors = {"other": ("F32", (3,), bytes(12)), "w": (type_, shape, random_bytes(type_, shape))}
    weights = weight_file(tmp_path / "w", tensors)
    if type_.startswith("F8"):
        held = weights.parameters["w"]
        weights = replace(weights, parameters={"w": replace(held, runs=(replace(held.runs[0], scale=0.3),))})
    expected = read_parameter(weights.parameters["w"])
    read = values.Values(weights)
    np.testing.assert_array_equal(read.whole("w").numpy(), expected)
    runs = [(first, run.clone()) for first, run in read.by_rows("w", torch.float32)]
    assert [first for first, _ in runs] == [0, 3, 6]
    np.testing.assert_array_equal(torch.cat([run for _, run in runs]).numpy(), expected)
    half = torch.cat([run.clone() for _, run in read.by_rows("w", torch.bfloat16)])
    np.testing.assert_array_equal(half.float().numpy(), torch.from_numpy(expected).bfloat16().float().numpy())
    read.close()


def test_rows_that_share_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "SCRATCH", 48)
    weights = weight_file(tmp_path / "w", {"weight": ("Q8_0", (6, 16), small_q8(3, 32)[2])})
    x = torch.randn(4, 16)
    (found,) = TorchModel(linear(6, 16), weights, "CPU", half=False).run(0, call, {"x": x})
    torch.testing.assert_close(found, x @ torch.from_numpy(read_parameter(weights.parameters["weight"])).T)


def test_parameters_used_outside_of_layers(tmp_path: Path) -> None:
    """In views, in lists, by their device, and as what an operation is called on."""

    class Raw(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (torch.nn.Parameter(torch.empty(4, 32, device="meta")) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            positions = torch.arange(self.a.shape[0], device=self.a.device)
            both = torch.cat([self.a, self.b.to(x)])[positions + 2] * self.a.unsqueeze(0)
            return torch.nn.functional.linear(x, self.b[1:3]).sum() + both + self.a.T.contiguous().view(4, 32)

    tensors = {name: small_q8(4, 32) for name in "ab"}
    weights = weight_file(tmp_path / "w", tensors)
    expected = Raw()
    for name, parameter in weights.parameters.items():
        setattr(expected, name, torch.nn.Parameter(torch.from_numpy(read_parameter(parameter))))
    x = torch.randn(3, 32)
    (found,) = TorchModel(Raw(), weights, "CPU", half=False).run(0, call, {"x": x})
    torch.testing.assert_close(found, expected(x).detach())


def test_what_is_known_of_a_parameter_is_told_without_reading_it(tmp_path: Path) -> None:
    weights = weight_file(tmp_path / "w", {"weight": small_q8(64, 32)})
    read: list[float] = []

    def function(module: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        weight = module.get_parameter("weight")
        assert (weight.shape, weight.size(1), weight.ndim, weight.dtype) == ((64, 32), 32, 2, torch.float32)
        assert weight.device.type == "cpu"
        return inputs["x"].to(weight.device)

    TorchModel(linear(64, 32), weights, "CPU").run(0, function, {"x": torch.ones(1)}, progress=read.append)
    assert not read


def test_branches_are_added_and_taken_away(tmp_path: Path) -> None:
    weights = weight_file(tmp_path / "w", {"weight": small_q8(64, 32)})
    model, x = TorchModel(linear(64, 32), weights, "CPU", half=False), torch.randn(5, 32)
    (plain,) = model.run(0, call, {"x": x})
    down, up = RNG.standard_normal((3, 32)).astype("f4"), RNG.standard_normal((64, 3)).astype("f4")
    model.set_patches(Patches({"weight": [LowRank(down, up)]}))
    (found,) = model.run(0, call, {"x": x})
    added = x @ torch.from_numpy(down).T @ torch.from_numpy(up).T
    torch.testing.assert_close(found, plain + added, rtol=1e-4, atol=1e-4)
    model.set_patches(Patches())
    assert torch.equal(model.run(0, call, {"x": x})[0], plain)


def test_inputs_stay_as_they_were(tmp_path: Path) -> None:
    weights = weight_file(tmp_path / "w", {"weight": small_q8(32, 32)})
    x = torch.ones(2, 32)
    TorchModel(linear(32, 32), weights, "CPU").run(0, lambda module, inputs: module(inputs["x"].mul_(2)), {"x": x})
    assert bool((x == 1).all())


def test_a_layer_larger_than_the_scratch_is_held_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is held at any time, with what is dequantized at once."""
    monkeypatch.setattr(values, "CHUNK", 1 << 12)
    monkeypatch.setattr(values, "SCRATCH", 1 << 14)
    layers = torch.nn.Sequential(*(linear(512, 512, bias=True) for _ in range(3)))
    tensors = {f"{n}.weight": small_q8(512, 512) for n in range(3)}
    tensors |= {f"{n}.bias": ("F32", (512,), bytes(2048)) for n in range(3)}
    model, held = TorchModel(layers, weight_file(tmp_path / "w", tensors), "CPU", half=True), []
    model.run(0, call, {"x": torch.randn(4, 512)}, progress=lambda _: held.append(model.nbytes))
    biases, raw = 3 * 2048, (1 << 12) // 32 * 34
    assert max(held) <= biases + raw + (1 << 14) * 2
    assert model.nbytes == biases
    model.unload()
    assert model.nbytes == 0


def test_interrupt_between_layers(tmp_path: Path) -> None:
    layers = torch.nn.Sequential(*(linear(32, 32) for _ in range(6)))
    model = TorchModel(layers, weight_file(tmp_path / "w", {f"{n}.weight": small_q8(32, 32) for n in range(6)}), "CPU")
    fractions: list[float] = []
    with pytest.raises(Interrupted):
        model.run(0, call, {"x": torch.ones(1, 32)}, lambda: len(fractions) == 3, fractions.append)
    assert fractions == [1 / 6, 2 / 6, 3 / 6]
    fractions.clear()
    model.run(0, call, {"x": torch.ones(1, 32)}, lambda: False, fractions.append)
    assert fractions[-1] == 1.0


def test_file_that_changed_or_ends_early_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w"
    model = TorchModel(linear(64, 512), weight_file(path, {"weight": small_q8(64, 512)}), "CPU")
    x = {"x": torch.ones(1, 512)}
    model.run(0, call, x)
    status = path.stat()

    def shorten(module: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """After the run began."""
        with open(path, "r+b") as file:
            file.truncate(8000)
        return call(module, inputs)

    with pytest.raises(WeightFileError, match="ends inside the tensor of weight: it was cut short"):
        model.run(0, shorten, x)
    with pytest.raises(WeightFileError, match="changed since its header was read"):
        model.run(0, call, x)
    with pytest.raises(WeightFileError, match="changed since its header was read"):
        model.load()
    os.truncate(path, status.st_size)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    path.unlink()
    with pytest.raises(WeightFileError, match="can no longer be read"):
        model.run(0, call, x)


def test_result_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    broken = np.full((4, 32), np.nan, "f4")
    weights = weight_file(tmp_path / "w", {"weight": ("F32", (4, 32), broken.tobytes())})
    with pytest.raises(RunnerError, match="toy on CPU computed values that are infinite or not a number"):
        TorchModel(linear(4, 32), weights, "CPU").run(0, call, {"x": torch.ones(1, 32)})


def test_nothing_is_swapped_for_another_thread(tmp_path: Path) -> None:
    """A function of torch that another thread calls in the middle of a run gets what it was given."""
    from concurrent.futures import ThreadPoolExecutor

    weights = weight_file(tmp_path / "w", {"weight": small_q8(32, 32)})
    module = linear(32, 32)

    def function(inner: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            elsewhere = pool.submit(inner, torch.ones(2, 32, device="meta")).result()
        assert elsewhere.device.type == "meta"
        return inner(inputs["x"])

    TorchModel(module, weights, "CPU").run(0, function, {"x": torch.ones(2, 32)})


def chosen(weights: WeightSet, placement: Placement) -> type:
    return type(engine.model_for(linear(1024, 1024), weights, placement, LowerOptions(), 256))


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WeightSet:
    monkeypatch.setattr(cpu_benchmark, "_known", {})
    return weight_file(tmp_path / "w", {"weight": small_q8(1024, 1024), "small": small_q8(32, 32)})


def test_engine_that_is_named(large: WeightSet) -> None:
    assert chosen(large, Placement("CPU", engine=TORCH)) is TorchModel
    assert chosen(large, Placement("CPU", engine=GGML)) is GgmlModel
    assert chosen(large, Placement("Vulkan0", engine=AUTO)) is GgmlModel
    assert not cpu_benchmark._known
    with pytest.raises(ValueError, match="computes on the CPU only, not on Vulkan0: choose the device CPU"):
        chosen(large, Placement("Vulkan0", engine=TORCH))


def test_auto_measures_both_once_and_says_so(large: WeightSet, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "native.engines.cpu_benchmark"):
        found = {chosen(large, Placement("CPU", engine=AUTO)) for _ in range(3)}
    assert len(found) == 1
    (said,) = caplog.messages
    assert said.startswith("Q8_0 weights of 1024 x 1024 on the CPU: ")
    (speeds,) = cpu_benchmark._known.values()
    assert min(speeds.ggml, speeds.torch) > 1e8
    assert chosen(large, Placement("CPU", DEVICE, engine=AUTO)) in (TorchModel, GgmlModel)
    assert len(cpu_benchmark._known) == 2


@pytest.mark.parametrize(("torch_speed", "expected"), [(1.4, GgmlModel), (1.6, TorchModel)])
def test_auto_takes_torch_by_a_margin(
    torch_speed: float, expected: type, large: WeightSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        cpu_benchmark._known, ("Q8_0", (1024, 1024), AUTO, 256), cpu_benchmark._Speeds(1.0, torch_speed)
    )
    assert chosen(large, Placement("CPU", engine=AUTO)) is expected


def test_what_is_measured_is_of_the_kind_that_most_weights_are(tmp_path: Path) -> None:
    tensors = {
        "large": small_q8(2048, 2048), "middle": small_q8(1024, 2048), "small": small_q8(32, 32),
        "other": ("F16", (1024, 1024), random_bytes("F16", (1024, 1024))), "bias": ("F32", (1 << 21,), bytes(1 << 23)),
    }  # fmt: skip
    found = engine.typical_layer(weight_file(tmp_path / "w", tensors))
    assert found is not None
    assert found.name == "middle"
    only_small = weight_file(tmp_path / "v", {"small": small_q8(32, 32)})
    assert engine.typical_layer(only_small) is None
    assert chosen(only_small, Placement("CPU", engine=AUTO)) is GgmlModel
