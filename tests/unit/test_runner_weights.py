"""Weights on a device: every stored type, in place on the CPU, split and uploaded elsewhere, shared, and checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from native.client import Interrupted, OutOfMemory, Runner, RunnerError
from native.ggml_types import LAYOUTS
from native.placement import DEVICE, Placement
from native.weights.runs import Run
from native.weights.weight_set import WeightSet
from tests.runner_toys import DEVICES, Table, f32_file, linear, new_runner, relative_error, weight_file

# lavapipe compiles a shader for every type and number of tokens: all that multiplies here has three.
RNG = np.random.default_rng(7)
# Where each quantized block keeps its scales (16-bit floats, byte offsets): random ones would be infinite or NaN.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0],
    "IQ3_S": [0], "IQ1_S": [0], "IQ1_M": [], "IQ4_NL": [0], "IQ4_XS": [0],
}  # fmt: skip


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = new_runner()
    yield runner
    runner.close()


def random_blocks(type_: str, rows: int, columns: int) -> np.ndarray:
    """Random blocks with finite scales, as stored; uint8 [rows, bytes of a row]."""
    layout = LAYOUTS[type_]
    blocks = RNG.integers(0, 256, (rows * columns // layout.block, layout.nbytes), np.uint8)
    for offset in SCALES[type_]:
        scale = (0.01 * (1 + RNG.random(len(blocks)))).astype("<f2")
        blocks[:, offset : offset + 2] = scale.view(np.uint8).reshape(-1, 2)
    if type_ == "IQ1_M":  # its one scale, 0x2C00, is spread over the high bits of four words
        for word, nibble in enumerate((0x0, 0x0, 0xC, 0x2)):
            high = blocks[:, 49 + 2 * word]
            blocks[:, 49 + 2 * word] = high & 0x0F | nibble << 4
    return blocks.reshape(rows, -1)


# lavapipe compiles each of the other IQ types for 20 s; what reads them is ggml's, here is only their number and size.
ON_VULKAN = [
    pytest.param("Vulkan0", type_, marks=pytest.mark.turns(3))
    for type_ in SCALES
    if not type_.startswith("IQ") or type_ == "IQ4_NL"
]


@pytest.mark.parametrize(("device", "type_"), [*(("CPU", type_) for type_ in SCALES), *ON_VULKAN])
def test_every_quantization_multiplies_as_it_dequantizes(
    runner: Runner, device: str, type_: str, tmp_path: Path
) -> None:
    stored = random_blocks(type_, 32, 512)
    weights = weight_file(tmp_path / "w", {"w": (type_, (32, 512), stored.tobytes())})
    dequantized = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[type_])
    x = RNG.standard_normal((3, 512)).astype("f4")
    (found,) = runner.run(weights, device, linear(32, 512, 3, type_), {"x": x})
    assert relative_error(found.reshape(3, 32), x @ dequantized.reshape(32, 512).T) < 2e-2
    runner.unload(weights.digest, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stored", ["F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2"])
def test_plain_and_converted_types(runner: Runner, device: str, stored: str, tmp_path: Path) -> None:
    from native.weights import read_parameter

    raw = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}
    if stored in raw:
        data = RNG.standard_normal((8, 64)).astype(raw[stored]).tobytes()
    elif stored == "BF16":
        data = (RNG.standard_normal((8, 64)).astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    else:
        data = RNG.integers(0, 100, 8 * 64, np.uint8).tobytes()
    weights = weight_file(tmp_path / "w", {"w": (stored, (8, 64), data)})
    x = RNG.standard_normal((3, 64)).astype("f4")
    (found,) = runner.run(weights, device, linear(8, 64, 3, weights.parameters["w"].type), {"x": x})
    assert relative_error(found.reshape(3, 8), x @ read_parameter(weights.parameters["w"]).T) < 1e-2
    report = runner.load(weights, device)
    in_place = device == "CPU" and stored in ("F32", "F16", "BF16")
    assert report.mapped == (len(data) if in_place else 0)
    assert (report.copied > 0) != in_place


def test_mapped_weights_cost_no_private_memory(runner: Runner, tmp_path: Path) -> None:
    size = 2048
    weights = f32_file(tmp_path / "w", {"w": RNG.standard_normal((size, size)).astype("f4")})
    x = np.ones((1, size), "f4")
    small = f32_file(tmp_path / "small", {"w": np.ones((4, 4), "f4")})
    runner.run(small, "CPU", linear(4, 4, 1), {"x": np.ones((1, 4), "f4")})
    before = runner.memory()
    (found,) = runner.run(weights, "CPU", linear(size, size, 1), {"x": x})
    after = runner.memory()
    assert found.any()
    assert after.private - before.private < size * size * 4 / 8  # the weights are 16 MiB
    assert after.resident - before.resident > size * size * 4 / 2  # but they were read where they lie
    (model,) = [model for model in after.models if model.digest == weights.digest]
    assert (model.mapped, model.copied) == (size * size * 4, 0)


@pytest.mark.parametrize("device", DEVICES)
def test_loading_is_split_over_buffers_and_reports_progress(device: str, tmp_path: Path) -> None:
    arrays = {f"w{n}": RNG.standard_normal((64, 64)).astype("f8") for n in range(6)}  # 16 KiB each once loaded
    tensors = {name: ("F64", a.shape, a.tobytes()) for name, a in arrays.items()}
    weights = weight_file(tmp_path / "w", tensors)
    runner = new_runner("--largest-buffer", str(40_000))
    seen: list[tuple[int, int]] = []
    report = runner.load(weights, device, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (6 * 64 * 64 * 8,) * 2
    assert report.copied == 6 * 64 * 64 * 4
    assert [model.buffers for model in runner.memory().models] == [3]
    table = Table()
    x = table.input("x", (3, 64))
    y = [table.op("mul_mat", (3, 64), table.weight(f"w{n}", (64, 64)), x, with_=("F32",)) for n in range(6)]
    values = RNG.standard_normal((3, 64)).astype("f4")
    for n, found in enumerate(runner.run(weights, device, table.program(*y), {"x": values})):
        assert relative_error(found.reshape(3, 64), values @ arrays[f"w{n}"].T) < 1e-2
    runner.close()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stored", ["F32", "F64"])
def test_a_matrix_of_several_pieces(runner: Runner, device: str, stored: str, tmp_path: Path) -> None:
    matrix = RNG.standard_normal((2560, 2048)).astype("f4")  # 20 MiB, uploaded in two pieces and converted in five
    data = matrix.astype("<f4" if stored == "F32" else "<f8").tobytes()
    weights = weight_file(tmp_path / "w", {"w": (stored, matrix.shape, data)})
    x = RNG.standard_normal((3, 2048)).astype("f4")
    (found,) = runner.run(weights, device, linear(2560, 2048, 3), {"x": x})
    assert relative_error(found.reshape(3, 2560), x @ matrix.T) < 1e-2
    runner.unload(weights.digest, device)


def test_a_tensor_larger_than_the_largest_buffer_gets_its_own(tmp_path: Path) -> None:
    runner = new_runner("--largest-buffer", "1000")
    weights = f32_file(tmp_path / "w", {"w": np.eye(64, dtype="f4")})
    x = RNG.standard_normal((3, 64)).astype("f4")
    (found,) = runner.run(weights, "Vulkan0", linear(64, 64, 3), {"x": x})
    assert relative_error(found.reshape(3, 64), x) < 1e-3
    runner.close()


@pytest.mark.parametrize("device", DEVICES)
def test_sets_that_differ_in_arrays_share_their_files(runner: Runner, device: str, tmp_path: Path) -> None:
    matrix = RNG.standard_normal((64, 64)).astype("f4")
    values = RNG.standard_normal((3, 64)).astype("f4")
    plain = f32_file(tmp_path / "w", {"w": matrix})
    patches = {"F32": RNG.standard_normal((64, 64)).astype("f4"), "F16": RNG.standard_normal((64, 64)).astype("f2")}
    patched = {type_: plain.with_arrays({"patch": patch}) for type_, patch in patches.items()}

    def held() -> int:
        return {each.name: each.held for each in runner.memory().devices}[device]

    def run(type_: str) -> None:
        table = Table()
        x = table.input("x", (3, 64))
        base = table.op("mul_mat", (3, 64), table.weight("w", (64, 64)), x, with_=("F32",))
        branch = table.op("mul_mat", (3, 64), table.weight("patch", (64, 64), type_), x, with_=("F32",))
        program = table.program(table.op("add", (3, 64), base, branch))
        (found,) = runner.run(patched[type_], device, program, {"x": values})
        assert relative_error(found.reshape(3, 64), values @ (matrix + patches[type_]).T) < 1e-2

    runner.run(plain, device, linear(64, 64, 3), {"x": values})
    before = held()
    for type_ in ("F32", "F16", "F32"):
        run(type_)
        assert held() - before < 1.2 * patches[type_].nbytes  # not the matrix again, and not the patch before
    digests = {plain.digest, patched["F32"].digest}
    models = {
        model.digest: model for model in runner.memory().models if model.files_digest == files_digest(runner, plain)
    }
    assert set(models) == digests
    assert models[plain.digest].compute == 0
    assert models[patched["F32"].digest].arrays == patches["F32"].nbytes
    runner.unload(patched["F32"].digest, device)
    assert held() < before
    runner.run(plain, device, linear(64, 64, 3), {"x": values})
    assert held() == before
    runner.unload(plain.digest, device)


def files_digest(runner: Runner, weights: WeightSet) -> str:
    (found,) = {model.files_digest for model in runner.memory().models if model.digest == weights.digest}
    return found


def test_array_of_another_content_is_another_set(runner: Runner) -> None:
    x = np.ones((1, 8), "f4")
    for factor in (1.0, 2.0):
        weights = WeightSet("toy", {}, (), {"w": np.full((4, 8), factor, "f4")})
        (found,) = runner.run(weights, "CPU", linear(4, 8, 1), {"x": x})
        np.testing.assert_array_equal(found.reshape(-1), np.full(4, 8 * factor))


@pytest.mark.parametrize("device", DEVICES)
def test_a_file_that_changed_is_reported_not_used(runner: Runner, device: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    weights = f32_file(path, {"w": np.eye(8, dtype="f4")})
    program, inputs = linear(8, 8, 3), {"x": np.ones((3, 8), "f4")}
    runner.run(weights, device, program, inputs)
    os.utime(path, ns=(1, 1))
    for _ in range(2):
        with pytest.raises(RunnerError, match=r"model\.bin changed"):
            runner.run(weights, device, program, inputs)
    assert weights.digest not in {model.digest for model in runner.memory().models}
    path.unlink()
    with pytest.raises(RunnerError, match=r"model\.bin can no longer be read"):
        runner.load(weights, device)


def test_loading_can_be_interrupted_and_leaves_nothing(tmp_path: Path) -> None:
    runner = new_runner()
    shape = (16, 512, 256)  # as a convolution's kernel, it is dequantized: slow enough to be interrupted
    tensors = {f"w{n}": ("Q4_K", shape, bytes(16 * 512 * 144)) for n in range(8)}
    weights = weight_file(tmp_path / "w", tensors)
    with pytest.raises(Interrupted):
        runner.load(weights, "CPU", interrupted=lambda: True)
    memory = runner.memory()
    assert memory.models == ()
    assert memory.devices[-1].held == 0
    runner.close()


def test_weights_too_large_for_a_device(runner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "w"
    weights = f32_file(path, {"w": np.eye(8, dtype="f4")})
    (device,) = [device for device in runner.devices() if device.name == "Vulkan0"]
    rows = device.total // (4 * 8) + 1
    huge = f32_file(path, {"w": np.eye(8, dtype="f4")}).parameters["w"]
    with path.open("ab") as file:
        file.truncate(device.total + 8192)  # sparse: no byte of it is ever read
    status = path.stat()
    parameter = type(huge)("w", "F32", (rows, 8), (Run(str(path), "F32", 4096, rows * 8 * 4),))
    weights = WeightSet("huge toy", {"w": parameter}, ((str(path), status.st_size, status.st_mtime_ns),))
    pid = runner.pid
    placement = Placement("Vulkan0", DEVICE)
    with pytest.raises(OutOfMemory, match="the weights of huge toy needs.*MiB on Vulkan0") as caught:
        runner.load(weights, placement)
    assert caught.value.requested > device.total
    assert caught.value.free <= device.total
    assert caught.value.device == "Vulkan0"
    assert runner.pid == pid
