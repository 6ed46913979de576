"""Programs on the CPU and on Vulkan: right results, and a message where a program is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from native.client import Runner, RunnerError
from native.client import runner as client
from native.client.tensors import write_inputs
from native.process.child import PACK
from native.program import Program
from native.wire.messages import RunRequest
from native.wire.turn import Turn
from tests.runner_toys import DEVICES, NO_WEIGHTS, Parameters, Table, f32_file, linear, new_runner

RNG = np.random.default_rng(5)
X = RNG.standard_normal((4, 6)).astype("f4")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = new_runner()
    yield runner
    runner.close()


@pytest.mark.parametrize("device", DEVICES)
def test_views_constants_and_several_outputs(runner: Runner, device: str) -> None:
    table = Table()
    x = table.input("x", (4, 6))
    bias = table.constant("bias", np.arange(6, dtype="f4"))
    shifted = table.op("add", (4, 6), x, bias)
    right = table.op("view", (4, 3), shifted, with_=(3, 4, 1, 1, 24, 96, 96, 12))
    turned = table.op("cont", (3, 4), table.op("permute", (3, 4), right, with_=(1, 0, 2, 3)))
    rows = table.op("view", (2, 6), shifted, with_=(6, 2, 1, 1, 24, 48, 48, 48))  # an output that is a view
    big = table.op("scale", (4, 6), shifted, with_=(10.0, 1.0))  # reads what must not have been overwritten
    program = table.program(turned, rows, big, x)
    for _ in range(2):  # the second run finds the graph built, and inputs that the first may have overwritten
        results = runner.run(NO_WEIGHTS, device, program, {"x": X})
        expected = X + np.arange(6, dtype="f4")
        for found, wanted in zip(results, (expected[:, 3:].T, expected[2:], expected * 10 + 1, X), strict=True):
            np.testing.assert_allclose(found.reshape(wanted.shape), wanted, rtol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_what_an_output_is_a_view_of_is_not_overwritten(runner: Runner, device: str) -> None:
    table = Table()
    x = table.input("x", (64, 64))
    whole = table.op("scale", (64, 64), x, with_=(2.0, 0.0))
    view = table.op("view", (64, 64), whole, with_=(64, 64, 1, 1, 256, 16384, 16384, 0))
    y = table.op("add", (64, 64), view, view)  # the last that reads the view; its memory would be free from here on
    for _ in range(4):
        y = table.op("mul", (64, 64), y, x)
        y = table.op("concat", (64, 64), halves(table, y, 0), halves(table, y, 1), with_=(1,))
    array = RNG.standard_normal((64, 64)).astype("f4")
    seen, last = runner.run(NO_WEIGHTS, device, table.program(view, y), {"x": array})
    np.testing.assert_array_equal(seen.reshape(64, 64), 2 * array)
    np.testing.assert_allclose(last.reshape(64, 64), 4 * array**5, rtol=1e-5)


def halves(table: Table, source: int, which: int) -> int:
    return table.op("view", (32, 64), source, with_=(64, 32, 1, 1, 256, 8192, 8192, 8192 * which))


@pytest.mark.parametrize("device", DEVICES)
def test_inputs_may_be_outputs_and_may_be_unused(runner: Runner, device: str) -> None:
    table = Table()
    x = table.input("x", (4, 6))
    table.input("unused", (2,))
    (found,) = runner.run(NO_WEIGHTS, device, table.program(x), {"x": X, "unused": X[0, :2]})
    np.testing.assert_array_equal(found.reshape(4, 6), X)


@pytest.mark.parametrize("device", DEVICES)
def test_memory_is_reused_in_place_without_harm(runner: Runner, device: str) -> None:
    table = Table()
    x = table.input("x", (64, 64))
    kept = table.op("scale", (64, 64), x, with_=(2.0, 0.0))
    y = kept
    for _ in range(20):
        y = table.op("add", (64, 64), y, x)
    program = table.program(table.op("mul", (64, 64), y, kept))
    array = RNG.standard_normal((64, 64)).astype("f4")
    (found,) = runner.run(NO_WEIGHTS, device, program, {"x": array})
    np.testing.assert_allclose(found.reshape(64, 64), 22 * array * 2 * array, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_clamp_leaves_its_source_alone(runner: Runner, device: str, tmp_path: Any) -> None:
    weights = f32_file(tmp_path / "w", {"w": X})
    table = Table()
    w = table.weight("w", (4, 6))
    low = table.op("clamp", (4, 6), w, with_=(-0.1, 0.1))
    program = table.program(low, table.op("scale", (4, 6), w, with_=(1.0, 0.0)))
    clamped, whole = runner.run(weights, device, program, {})
    np.testing.assert_array_equal(clamped.reshape(4, 6), X.clip(-0.1, 0.1))
    np.testing.assert_array_equal(whole.reshape(4, 6), X)


def test_every_operation_of_the_vocabulary_can_be_built() -> None:
    code = "from native.runner.graph.operations import BUILDERS as b; from native.program.ops import OPERATIONS as o; "
    found = subprocess.run(
        [sys.executable, "-c", code + "print(sorted(set(b) ^ set(o)))"], cwd=PACK, capture_output=True
    )
    assert found.stdout.strip() == b"[]", found


def one_op(
    name: str, shape: tuple[int, ...], *inputs: tuple[int, ...], with_: Parameters = (), type_: str = "F32"
) -> Program:
    table = Table()
    sources = [table.input(f"x{number}", each) for number, each in enumerate(inputs)]
    return table.program(table.op(name, shape, *sources, with_=with_, type_=type_))


def transposed() -> Program:
    table = Table()
    turned = table.op("permute", (6, 4), table.input("x0", (4, 6)), with_=(1, 0, 2, 3))
    return table.program(table.op("reshape", (24,), turned))


CONV_3D = (1, 1, 1, 0, 0, 0, 1, 1, 1)  # strides, padding, dilations
WRONG: dict[str, Callable[[], Program]] = {
    "mul_mat": lambda: one_op("mul_mat", (4, 4), (4, 6), (4, 5), with_=("F32",)),
    "add": lambda: one_op("add", (4, 6), (4, 6), (4, 5)),
    "reshape": lambda: one_op("reshape", (5, 5), (4, 6)),
    "reshape of a transposed view": transposed,
    "view past the end": lambda: one_op("view", (4, 6), (4, 6), with_=(6, 4, 1, 1, 24, 96, 96, 4)),
    "view that repeats": lambda: one_op("view", (9, 6), (4, 6), with_=(6, 9, 1, 1, 0, 0, 0, 0)),
    "view through elements": lambda: one_op("view", (4, 2), (4, 6), with_=(2, 4, 1, 1, 6, 96, 96, 0)),
    "permute": lambda: one_op("permute", (4, 6), (4, 6), with_=(0, 0, 2, 3)),
    "concat": lambda: one_op("concat", (8, 6), (4, 6), (4, 5), with_=(1,)),
    "soft_max mask": lambda: one_op("soft_max", (4, 6), (4, 6), (4, 5), with_=(1.0,)),
    "group_norm": lambda: one_op("group_norm", (6, 4, 4), (6, 4, 4), with_=(4, 1e-5)),
    "conv_2d": lambda: one_op("conv_2d", (2, 4, 4), (2, 3, 3, 3), (4, 4, 4), with_=(1, 1, 1, 1, 1, 1)),
    "conv_2d too large": lambda: one_op("conv_2d", (2, 1, 1), (2, 3, 9, 9), (3, 4, 4), with_=(1, 1, 0, 0, 1, 1)),
    "conv_2d of what no kernel covers": lambda: one_op(
        "conv_2d", (1, 1, 1), (1, 5, 1000, 1000), (5, 1000, 1000), with_=(1, 1, 0, 0, 1, 1)
    ),
    "conv_2d_dw": lambda: one_op("conv_2d_dw", (3, 2, 2), (3, 2, 3, 3), (3, 4, 4), with_=(1, 1, 0, 0, 1, 1)),
    "conv_2d_dw without a step": lambda: one_op(
        "conv_2d_dw", (3, 2, 2), (3, 1, 3, 3), (3, 4, 4), with_=(0, 1, 0, 0, 1, 1)
    ),
    "conv_3d": lambda: one_op("conv_3d", (2, 2, 2, 2), (7, 3, 3, 3), (3, 4, 4, 4), with_=(*CONV_3D, 1)),
    "conv_3d of no volume": lambda: one_op("conv_3d", (2, 2, 2, 2), (6, 3, 3, 3), (3, 4, 4, 4), with_=(*CONV_3D, 0)),
    "conv_3d of parts of volumes": lambda: one_op(
        "conv_3d", (2, 2, 2, 2), (6, 3, 3, 3), (3, 4, 4, 4), with_=(*CONV_3D, 2)
    ),
    "conv_3d too large": lambda: one_op("conv_3d", (2, 1, 1, 1), (6, 5, 5, 5), (3, 4, 4, 4), with_=(*CONV_3D, 1)),
    "flash_attn": lambda: one_op("flash_attn", (3, 2, 4), (2, 3, 4), (3, 5, 4), (2, 5, 4), with_=(1.0,)),
    "get_rows of floats": lambda: one_op("get_rows", (3, 6), (4, 6), (3,)),
    "set_rows of floats": lambda: one_op("set_rows", (4, 6), (4, 6), (2, 6), (2,)),
    "set": lambda: one_op("set", (4, 6), (4, 6), (4, 6), with_=(24, 96, 96, 8)),
    "cast": lambda: one_op("cast", (4, 6), (4, 6), with_=("Q4_0",), type_="Q4_0"),
    "upscale": lambda: one_op("upscale", (8, 12), (4, 6), with_=("cubic",)),
    "parameter of the wrong kind": lambda: one_op("scale", (4, 6), (4, 6), with_=("much", 0.0)),
    "another shape than declared": lambda: one_op("silu", (6, 4), (4, 6)),
    "another type than declared": lambda: one_op("silu", (4, 6), (4, 6), type_="F16"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_program_is_an_error_and_the_runner_lives(runner: Runner, fault: str) -> None:
    program = WRONG[fault]()
    runner.memory()
    pid = runner.pid
    inputs = {row.name: np.zeros(row.ne[::-1], "f4") for row in program.tensors if row.kind == "input"}
    with pytest.raises(RunnerError, match=f"operation {len(program.tensors) - 1}, op .* is not valid"):
        runner.run(NO_WEIGHTS, "CPU", program, inputs)
    assert runner.pid == pid


def test_an_output_must_be_contiguous_f32(runner: Runner) -> None:
    table = Table()
    turned = table.op("permute", (6, 4), table.input("x", (4, 6)), with_=(1, 0, 2, 3))
    with pytest.raises(RunnerError, match="output 0"):
        runner.run(NO_WEIGHTS, "CPU", table.program(turned), {"x": X})


def test_a_missing_weight_is_named(runner: Runner) -> None:
    with pytest.raises(RunnerError, match=r"toy has no weight double_blocks\.0\.w"):
        runner.run(NO_WEIGHTS, "CPU", linear(4, 6, 1, name="double_blocks.0.w"), {"x": np.zeros((1, 6), "f4")})


def test_inputs_are_checked_before_they_are_sent(runner: Runner) -> None:
    program = one_op("silu", (4, 6), (4, 6))
    for wrong in ({}, {"x0": X, "y": X}, {"x0": X[:3]}, {"x0": X.astype("f8")}):
        with pytest.raises(RunnerError, match="the (program takes the )?input"):
            runner.run(NO_WEIGHTS, "CPU", program, wrong)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_out_of_range_are_refused(runner: Runner, device: str) -> None:
    table = Table()
    rows = table.op("get_rows", (3, 6), table.input("t", (4, 6)), table.input("ids", (3,), "I32"))
    program = table.program(rows)
    (found,) = runner.run(NO_WEIGHTS, device, program, {"t": X, "ids": np.array([3, 0, 3], "i4")})
    np.testing.assert_array_equal(found.reshape(3, 6), X[[3, 0, 3]])
    for wrong in (4, -1):
        with pytest.raises(RunnerError, match="table of 4"):
            runner.run(NO_WEIGHTS, device, program, {"t": X, "ids": np.array([0, wrong, 1], "i4")})


@pytest.mark.parametrize("device", DEVICES)
def test_inputs_that_are_written_into_stay(runner: Runner, device: str) -> None:
    """From turn to turn. Where another program was built, another series ran or a turn was left out, they are sent."""
    table = Table()
    kept, row, number = table.input("kept", (4, 6)), table.input("row", (1, 6)), table.input("number", (1,), "I32")
    written = table.op("set_rows", (4, 6), kept, row, number)
    program = table.program(table.op("scale", (4, 6), table.op("silu", (4, 6), written), with_=(2.0, 0.0)))
    assert program.kept_inputs == {"kept"}
    other = one_op("silu", (4, 6), (4, 6))
    mine = {"a": X.copy(), "b": -X}
    sent: list[set[str]] = []

    def step(series: str, number: int, turn: int) -> bool:
        """Whether what is kept was sent."""
        new = RNG.standard_normal((1, 6)).astype("f4")
        inputs = {"kept": mine[series], "row": new, "number": np.array([number], "i4")}
        (found,) = runner.run(NO_WEIGHTS, device, program, inputs, turn=Turn(series, turn))
        mine[series][number] = new
        x = mine[series].astype("f8")
        np.testing.assert_allclose(found.reshape(4, 6), 2 * x / (1 + np.exp(-x)), rtol=1e-3, atol=1e-5)
        return "kept" in sent[-1]

    with patch.object(client, "write_inputs", lambda *args, turn: noted(sent, write_inputs(*args, turn=turn))):
        assert [step("a", number, turn) for turn, number in enumerate((2, 0, 3), 1)] == [True, False, False]
        runner.run(NO_WEIGHTS, device, other, {"x0": X})
        assert [step("a", 1, 4), step("a", 0, 5), step("b", 1, 1), step("b", 2, 2)] == [True, False, True, False]
        assert [step("a", 2, 6), step("a", 2, 8), step("a", 3, 9)] == [True, True, False]
    for wrong in (4, -1):
        with pytest.raises(RunnerError, match="table of 4"):
            step("a", wrong, 10)


def noted(sent: list[set[str]], request: RunRequest) -> RunRequest:
    sent.append(set(request.inputs))
    return request


@pytest.mark.parametrize("bad", [-1.0, 0.0])  # whose logarithms are NaN and infinite
def test_one_value_that_is_no_number_is_an_error_unless_wanted(runner: Runner, bad: float) -> None:
    program = one_op("log", (4, 6), (4, 6))
    array = np.abs(X)
    array[2, 3] = bad
    with pytest.raises(RunnerError, match="toy on CPU computed values that are infinite"):
        runner.run(NO_WEIGHTS, "CPU", program, {"x0": array})
    (found,) = runner.run(NO_WEIGHTS, "CPU", program, {"x0": array}, checked=False)
    assert (~np.isfinite(found)).sum() == 1


def test_one_value_throughout_is_an_error_of_a_gpu(runner: Runner) -> None:
    varied = np.random.default_rng(1).standard_normal((32, 32)).astype("f4")

    def scaled(device: str, array: np.ndarray, factor: float = 0.0, bias: float = 0.0) -> np.ndarray:
        program = one_op("scale", array.shape, array.shape, with_=(factor, bias))
        return runner.run(NO_WEIGHTS, device, program, {"x0": array})[0]

    for bias in (0.0, 0.5):
        with pytest.raises(RunnerError, match="toy on Vulkan0 computed the same value everywhere"):
            scaled("Vulkan0", varied, bias=bias)
    assert not scaled("CPU", varied).any()  # which does not give up
    assert not scaled("Vulkan0", np.zeros_like(varied)).any()  # as it should be
    assert not scaled("Vulkan0", varied[:31]).any()  # few enough to be alike
    nearly = np.zeros_like(varied)
    nearly[3, 4] = 1.0
    assert scaled("Vulkan0", nearly, factor=1.0).any()


def test_an_unknown_device_is_answered_with_those_there_are(runner: Runner) -> None:
    with pytest.raises(RunnerError, match=r"no device 'CUDA7'.*Vulkan0 \(.*CPU \("):
        runner.run(NO_WEIGHTS, "CUDA7", one_op("silu", (4, 6), (4, 6)), {"x0": X})


def test_a_program_that_was_forgotten_is_sent_again(runner: Runner) -> None:
    programs = {factor: one_op("scale", (4, 6), (4, 6), with_=(float(factor), 0.0)) for factor in range(1, 41)}
    for factor in (*programs, 1):
        (found,) = runner.run(NO_WEIGHTS, "CPU", programs[factor], {"x0": X})
        np.testing.assert_allclose(found.reshape(4, 6), X * factor, rtol=1e-6)
