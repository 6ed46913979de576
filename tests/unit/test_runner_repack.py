"""Repacked weights: which ones are, where they lie, what they cost, and when they go back to their file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from native.client import Runner
from native.errors import Interrupted
from native.placement import DEVICE, Placement
from native.program import Program
from native.runner.device.devices import Device, GgmlDevice, Limits
from native.runner.ggml_binding import ggml
from native.runner.weight_memory.files import MappedFiles
from native.runner.weight_memory.resident import FileWeights
from native.weights.weight_set import WeightSet
from tests.runner_toys import Table, linear, new_runner, relative_error, weight_file

RNG = np.random.default_rng(11)
Q4_0 = gguf.GGMLQuantizationType.Q4_0
REPACKED = Placement("CPU", DEVICE)
Matrix = tuple[str, tuple[int, ...], bytes]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = new_runner()
    yield runner
    runner.close()


@pytest.fixture
def cpu() -> Device:
    return GgmlDevice(ggml.ggml_backend_reg_dev_get(ggml.ggml_backend_cpu_reg(), 0), Limits(2), lambda: False)


def quantized(rows: int, columns: int) -> tuple[Matrix, np.ndarray]:
    """A random Q4_0 matrix as `weight_file` takes it, and its values."""
    stored = gguf.quants.quantize(RNG.standard_normal((rows, columns)).astype("f4"), Q4_0)
    return ("Q4_0", (rows, columns), stored.tobytes()), gguf.quants.dequantize(stored, Q4_0)


def load(weights: WeightSet, device: Device) -> FileWeights:
    return FileWeights(weights, device, MappedFiles(weights), lambda _done, _total: None, lambda: False, DEVICE)


def buffer_type(tensor: Any) -> str:
    return ggml.ggml_backend_buft_name(ggml.ggml_backend_buffer_get_type(tensor.contents.buffer)).decode()


def mixed(path: Path) -> WeightSet:
    """Every reason not to be repacked, and `w`, which is."""
    half = RNG.standard_normal((16, 64)).astype("f2")
    return weight_file(
        path,
        {
            "w": quantized(16, 64)[0],
            "odd rows": quantized(15, 64)[0],
            "half": ("F16", half.shape, half.tobytes()),
            "bias": ("F32", (64,), bytes(256)),
            "kernel": ("F32", (8, 8, 3, 3), bytes(8 * 8 * 9 * 4)),
            "converted": ("F64", (16, 64), bytes(16 * 64 * 8)),
        },
    )


def test_only_matrices_that_the_layout_has_lie_in_it(cpu: Device, tmp_path: Path) -> None:
    weights = mixed(tmp_path / "w")
    loaded = load(weights, cpu)
    places = {name: buffer_type(loaded.tensor(name)) for name in weights.parameters}
    assert {name for name, place in places.items() if place == "CPU_REPACK"} == {"w"}
    sizes = {name: parameter.nbytes for name, parameter in weights.parameters.items()}
    assert loaded.repacked.weight_bytes == sizes["w"]
    assert loaded.mapped_bytes == sum(sizes.values()) - sizes["w"] - sizes["converted"]
    assert loaded.copied_bytes == sizes["converted"] // 2
    assert cpu.held == loaded.repacked.weight_bytes + loaded.copied_bytes
    loaded.free()
    assert cpu.held == 0


def test_a_cpu_without_the_layout_maps_everything(cpu: Device, tmp_path: Path) -> None:
    cpu.repack_buffer_type = None
    weights = mixed(tmp_path / "w")
    loaded = load(weights, cpu)
    assert {buffer_type(loaded.tensor(name)) for name in weights.parameters} == {"CPU_Mapped", "CPU"}
    assert loaded.repacked.weight_bytes == 0
    loaded.free()


def test_an_interruption_between_tensors_leaves_nothing(cpu: Device, tmp_path: Path) -> None:
    weights = weight_file(tmp_path / "w", {f"w{n}": quantized(256, 256)[0] for n in range(9)})
    size = weights.parameters["w0"].nbytes
    seen: list[tuple[int, int]] = []
    source = MappedFiles(weights)
    with pytest.raises(Interrupted, match="the weights of toy"):
        FileWeights(weights, cpu, source, lambda *done: seen.append(done), lambda: len(seen) == 3, DEVICE)
    assert seen == [(size * n, size * 9) for n in (1, 2, 3)]
    assert cpu.held == 0


def test_what_they_cost(runner: Runner, tmp_path: Path) -> None:
    size, rows = 4096, 8192  # 18 MiB
    (type_, shape, data), _ = quantized(8, size)
    weights = weight_file(tmp_path / "w", {"w": (type_, (rows, size), data * (rows // 8))})
    small = weight_file(tmp_path / "small", {"w": (type_, shape, data)})
    runner.load(small, REPACKED)
    before = runner.memory()
    seen: list[tuple[int, int]] = []
    report = runner.load(weights, REPACKED, lambda *done: seen.append(done))
    after = runner.memory()
    nbytes = weights.parameters["w"].nbytes
    assert (report.mapped, report.copied, report.repacked) == (0, 0, nbytes)
    assert seen == [(nbytes, nbytes)]
    (model,) = [model for model in after.models if model.digest == weights.digest]
    assert (model.mapped, model.copied, model.repacked) == (0, 0, nbytes)
    assert after.devices[-1].held - before.devices[-1].held == nbytes
    assert 0.9 < (after.private - before.private) / nbytes < 1.1
    assert (after.resident - before.resident) / nbytes < 1.3  # the pages of the file were let go
    runner.unload(weights.digest, REPACKED)
    unloaded = runner.memory()
    assert unloaded.devices[-1].held == before.devices[-1].held
    assert unloaded.private - before.private < nbytes / 8


def test_memory_goes_back_to_the_system_every_time(runner: Runner, tmp_path: Path) -> None:
    """Blocks of both kinds: those the C library always gets from the system, and those it would keep for itself."""
    (type_, _, data), _ = quantized(8, 4096)
    tensors = {f"w{n}": (type_, (rows, 4096), data * (rows // 8)) for n, rows in enumerate([8192, *[1024] * 16])}
    weights = weight_file(tmp_path / "w", tensors)
    before = runner.memory().private
    for _ in range(3):
        nbytes = runner.load(weights, REPACKED).repacked
        runner.unload(weights.digest, REPACKED)
    assert runner.memory().private - before < nbytes / 50


def test_mapped_and_repacked_are_held_beside_each_other(runner: Runner, tmp_path: Path) -> None:
    matrix, values = quantized(64, 256)
    weights = weight_file(tmp_path / "w", {"w": matrix})
    x = RNG.standard_normal((6, 256)).astype("f4")

    def held() -> set[tuple[int, int]]:
        return {(m.mapped, m.repacked) for m in runner.memory().models if m.digest == weights.digest}

    def run(repacked: bool) -> None:
        (found,) = runner.run(weights, REPACKED if repacked else "CPU", linear(64, 256, 6, "Q4_0"), {"x": x})
        assert relative_error(found.reshape(6, 64), x @ values.T) < 2e-2

    size = len(matrix[2])
    run(False)
    assert held() == {(size, 0)}
    run(True)
    assert held() == {(size, 0), (0, size)}
    runner.unload(weights.digest, "CPU")
    assert held() == {(0, size)}
    run(True)
    runner.unload(weights.digest, REPACKED)
    assert held() == set()


def _rows(table: Table, weight: int) -> int:
    return table.op("get_rows", (3, 256), weight, table.constant("ids", np.array([5, 0, 63], "i4"), "I32"))


def _values(table: Table, weight: int) -> int:
    return table.op("cast", (64, 256), weight, with_=("F32",))


def _part(table: Table, weight: int, first: int = 8) -> int:
    row = 256 // 32 * 18  # bytes
    shape = (256, 32, 1, 1, row, 32 * row, 32 * row, first * row)
    part = table.op("view", (32, 256), weight, with_=shape, type_="Q4_0")
    return table.op("mul_mat", (6, 32), part, table.input("x", (6, 256)), with_=("F32",))


def _four_dimensions(table: Table, weight: int) -> int:
    return table.op("mul_mat", (2, 3, 6, 64), weight, table.input("x", (2, 3, 6, 256)), with_=("F32",))


X, X4 = RNG.standard_normal((6, 256)).astype("f4"), RNG.standard_normal((2, 3, 6, 256)).astype("f4")
OTHER_USES = {
    "rows of it": (_rows, {}, lambda w: w[[5, 0, 63]]),
    "its values": (_values, {}, lambda w: w),
    "a part of it": (_part, {"x": X}, lambda w: X @ w[8:40].T),
    "columns in four dimensions": (_four_dimensions, {"x": X4}, lambda w: X4 @ w.T),
}


def _program(use: Any) -> Program:
    """`use` of the weight "used", beside a product with the weight "other"."""
    table = Table()
    other = table.op(
        "mul_mat", (6, 64), table.weight("other", (64, 256), "Q4_0"), table.constant("c", X), with_=("F32",)
    )
    return table.program(use(table, table.weight("used", (64, 256), "Q4_0")), other)


def test_products_with_whole_groups_of_rows_stay_repacked(runner: Runner, tmp_path: Path) -> None:
    """The layouts weave up to 16 rows into one another: 16 to 48 are as in a matrix of their own."""
    (used, values), (other, _) = quantized(64, 256), quantized(64, 256)
    weights = weight_file(tmp_path / "w", {"used": used, "other": other})
    found, _ = runner.run(weights, REPACKED, _program(lambda table, weight: _part(table, weight, 16)), {"x": X})
    (held,) = [model for model in runner.memory().models if model.digest == weights.digest]
    assert held.repacked == 2 * len(used[2])
    assert relative_error(found, X @ values[16:48].T) <= 2e-2
    runner.unload(weights.digest, REPACKED)


@pytest.mark.parametrize("use", OTHER_USES)
def test_a_weight_used_otherwise_goes_back_to_its_file(runner: Runner, use: str, tmp_path: Path) -> None:
    (used, values), (other, other_values) = quantized(64, 256), quantized(64, 256)
    weights = weight_file(tmp_path / "w", {"used": used, "other": other})
    size = len(used[2])
    build, inputs, expected = OTHER_USES[use]
    assert runner.load(weights, REPACKED).repacked == 2 * size
    pid = runner.pid
    found, product = runner.run(weights, REPACKED, _program(build), inputs)
    assert relative_error(found, expected(values).reshape(found.shape)) < 2e-2
    assert relative_error(product.reshape(6, 64), X @ other_values.T) < 2e-2
    report = runner.load(weights, REPACKED)
    assert (report.mapped, report.repacked) == (size, size)
    (found,) = runner.run(weights, REPACKED, linear(64, 256, 6, "Q4_0", "used"), {"x": X})
    assert relative_error(found.reshape(6, 64), X @ values.T) < 2e-2
    assert runner.pid == pid
    runner.unload(weights.digest, REPACKED)


def test_sets_that_differ_in_arrays_share_repacked_files(runner: Runner, tmp_path: Path) -> None:
    (used, values), (other, _) = quantized(64, 256), quantized(64, 256)
    plain = weight_file(tmp_path / "w", {"used": used, "other": other})
    patched = plain.with_arrays({"patch": np.ones((4, 4), "f4")})
    size, product = len(used[2]), linear(64, 256, 6, "Q4_0", "used")
    before = runner.memory().devices[-1].held
    (first,) = runner.run(plain, REPACKED, product, {"x": X})
    assert runner.load(patched, REPACKED).repacked == 2 * size
    assert runner.memory().devices[-1].held - before < 3 * size
    runner.run(patched, REPACKED, _program(_values), {})  # takes the copy from under the first program
    (found,) = runner.run(plain, REPACKED, product, {"x": X})
    for result in (first, found):
        assert relative_error(result.reshape(6, 64), X @ values.T) < 2e-2
    for weights in (plain, patched):
        assert runner.load(weights, REPACKED).repacked == size
        runner.unload(weights.digest, REPACKED)
    assert runner.memory().devices[-1].held == before


def test_columns_in_three_dimensions(runner: Runner, tmp_path: Path) -> None:
    matrix, values = quantized(64, 256)
    weights = weight_file(tmp_path / "w", {"w": matrix})
    table = Table()
    x = table.input("x", (2, 7, 256))
    product = table.op("mul_mat", (2, 7, 64), table.weight("w", (64, 256), "Q4_0"), x, with_=("F32",))
    columns = RNG.standard_normal((2, 7, 256)).astype("f4")
    (found,) = runner.run(weights, REPACKED, table.program(product), {"x": columns})
    assert relative_error(found.reshape(2, 7, 64), columns @ values.T) < 2e-2
    assert runner.load(weights, REPACKED).repacked == len(matrix[2])


def test_no_difference_on_another_device(runner: Runner, tmp_path: Path) -> None:
    matrix, _ = quantized(64, 256)
    weights = weight_file(tmp_path / "w", {"w": matrix})
    assert runner.load(weights, Placement("Vulkan0", DEVICE)) == runner.load(weights, "Vulkan0")
    assert len([model for model in runner.memory().models if model.digest == weights.digest]) == 1
