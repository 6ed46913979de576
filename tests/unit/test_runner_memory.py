"""Exact bytes: what is reported, and what does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from native.client import OutOfMemory, Runner
from tests.runner_toys import DEVICES, NO_WEIGHTS, Table, f32_file, new_runner


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = new_runner()
    yield runner
    runner.close()


def test_a_runner_without_a_model_is_small_and_loads_no_driver_for_the_cpu() -> None:
    runner = new_runner()
    assert runner.memory().resident < 150 << 20
    runner.run(NO_WEIGHTS, "CPU", many_kept(2, 16).program(4), {"x": np.ones((1, 16), "f4")})
    assert [device.name for device in runner.memory().devices] == ["CPU"]
    runner.close()


def test_devices_say_what_they_are(runner: Runner) -> None:
    devices = {device.name: device for device in runner.devices()}
    assert devices["CPU"].type == "CPU"
    assert 0 < devices["CPU"].free < devices["CPU"].total
    vulkan = devices["Vulkan0"]
    assert vulkan.type in ("GPU", "IGPU")
    assert 0 < vulkan.largest_buffer <= vulkan.total
    assert ("software" in vulkan.features) == ("llvmpipe" in vulkan.description)
    assert any(feature.startswith("shared memory") for feature in vulkan.features)
    assert re.search(r"\d+\.\d+", vulkan.driver), vulkan.driver
    assert devices["CPU"].driver == ""


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_held_is_the_sum_of_what_is_reported(runner: Runner, device: str, tmp_path: Path) -> None:
    size, tokens = 256, 3
    weights = f32_file(tmp_path / "w", {"w": np.eye(size, dtype="f4")})
    before = {each.name: each.held for each in runner.memory().devices}.get(device, 0)
    table = Table()
    w, x = table.weight("w", (size, size)), table.input("x", (tokens, size))
    bias = table.constant("b", np.ones((tokens, size), "f4"))
    y = table.op("add", (tokens, size), table.op("mul_mat", (tokens, size), w, x, with_=("F32",)), bias)
    runner.run(weights, device, table.program(y), {"x": np.ones((tokens, size), "f4")})
    memory = runner.memory()
    (model,) = [model for model in memory.models if (model.digest, model.device) == (weights.digest, device)]
    held = {each.name: each.held for each in memory.devices}[device]
    assert held - before == model.copied + model.arrays + model.constants + model.compute
    activation = tokens * size * 4  # bytes
    assert model.constants == activation
    assert model.compute == 2 * activation  # the input and the product, which the sum replaces
    assert model.copied == (0 if device == "CPU" else size * size * 4)
    runner.unload(weights.digest, device)
    assert {each.name: each.held for each in runner.memory().devices}[device] == before


def many_kept(count: int, side: int) -> Table:
    """`count` matrices that all must exist at once."""
    table = Table()
    x = table.input("x", (1, side))
    kept = [table.op("repeat", (side, side), x) for _ in range(count)]
    total = kept[0]
    for each in kept[1:]:
        total = table.op("add", (side, side), total, each)
    table.op("view", (1, side), total, with_=(side, 1, 1, 1, 4 * side, 4 * side, 4 * side, 0))
    return table


def test_a_compute_buffer_too_large_for_vulkan(runner: Runner) -> None:
    (device,) = [device for device in runner.devices() if device.name == "Vulkan0"]
    side = 4096  # 64 MiB each
    table = many_kept(device.total // (side * side * 4) + 2, side)
    runner.run(NO_WEIGHTS, "Vulkan0", many_kept(2, 16).program(4), {"x": np.ones((1, 16), "f4")})
    pid = runner.pid
    with pytest.raises(OutOfMemory, match=r"the compute buffer of toy needs [\d,.]+ MiB on Vulkan0") as caught:
        runner.run(NO_WEIGHTS, "Vulkan0", table.program(len(table.rows) - 1), {"x": np.ones((1, side), "f4")})
    assert caught.value.requested > device.total >= caught.value.free > 0
    assert runner.pid == pid
    runner.run(NO_WEIGHTS, "Vulkan0", many_kept(2, 16).program(4), {"x": np.ones((1, 16), "f4")})


def test_a_compute_buffer_too_large_for_ram(runner: Runner) -> None:
    (cpu,) = [device for device in runner.devices() if device.name == "CPU"]
    side = 16384  # 1 GiB each
    table = many_kept(cpu.total // (side * side * 4) + 2, side)
    with pytest.raises(OutOfMemory, match="on CPU"):
        runner.run(NO_WEIGHTS, "CPU", table.program(len(table.rows) - 1), {"x": np.ones((1, side), "f4")})


def test_idle_models_give_up_their_compute_buffers(tmp_path: Path) -> None:
    runner = new_runner("--device-memory", str(12 << 20))
    sets = [f32_file(tmp_path / f"w{n}", {"w": np.full((8, 8), n, "f4")}) for n in range(2)]
    table = many_kept(7, 512)  # 7 MiB at once
    program = table.program(len(table.rows) - 1)
    for weights in (*sets, sets[0]):
        (found,) = runner.run(weights, "Vulkan0", program, {"x": np.ones((1, 512), "f4")})
        assert found.sum() == 7 * 512
        memory = runner.memory()
        assert {model.digest: model.compute > 7 << 20 for model in memory.models if model.compute} == {
            weights.digest: True
        }
        assert memory.devices[0].held <= memory.devices[0].total == 12 << 20
    with pytest.raises(OutOfMemory):
        runner.run(sets[1], "Vulkan0", many_kept(14, 512).program(15), {"x": np.ones((1, 512), "f4")})
    runner.close()


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_measured_is_what_is_held(runner: Runner, device: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    weights = f32_file(tmp_path / "w", {"w": rng.standard_normal((96, 64)), "b": rng.standard_normal((1, 96))})
    table = Table()
    w, x, bias = table.weight("w", (96, 64)), table.input("x", (5, 64)), table.weight("b", (1, 96))
    half = table.op("view", (96, 32), w, with_=(32, 96, 1, 1, 256, 24576, 24576, 128))
    y = table.op("add", (5, 96), table.op("mul_mat", (5, 96), w, x, with_=("F32",)), bias)
    z = table.op(
        "mul_mat", (5, 96), half, table.constant("c", rng.standard_normal((5, 32)).astype("f4")), with_=("F32",)
    )
    program = table.program(table.op("add", (5, 96), y, table.op("silu", (5, 96), z)))
    runner.devices()
    before = {each.name: each.held for each in runner.memory().devices}[device]
    measured = runner.estimate("toy", device, program)
    memory = runner.memory()
    assert {each.name: each.held for each in memory.devices}[device] == before
    assert weights.digest not in [model.digest for model in memory.models]
    runner.run(weights, device, program, {"x": rng.standard_normal((5, 64)).astype("f4")})
    (model,) = [model for model in runner.memory().models if (model.digest, model.device) == (weights.digest, device)]
    assert (measured.compute, measured.constants, measured.work) == (model.compute, model.constants, model.work)
    assert measured.compute > 0
    assert measured.largest_tensor == 5 * 96 * 4
    assert measured.largest_operation == 2 * 5 * 96 * 64
    assert measured.fits
    runner.unload(weights.digest, device)


def test_measured_room_is_what_idle_programs_give_back_too() -> None:
    runner = new_runner("--device-memory", str(12 << 20), "--largest-buffer", str(3 << 20))
    side = 512  # 1 MiB a matrix
    empty = runner.estimate("toy", "Vulkan0", many_kept(4, side).program(8))
    runner.run(NO_WEIGHTS, "Vulkan0", many_kept(3, side).program(6), {"x": np.ones((1, side), "f4")})
    measured = runner.estimate("toy", "Vulkan0", many_kept(4, side).program(8))
    assert measured.headroom == empty.headroom == 12 << 20
    assert measured.largest_buffer == 3 << 20
    assert measured.fits
    assert not runner.estimate("toy", "Vulkan0", many_kept(14, side).program(28)).fits  # too much together
    assert not runner.estimate("toy", "Vulkan0", many_kept(1, 2 * side).program(2)).fits  # 4 MiB in one
    runner.close()
