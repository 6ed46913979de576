"""Products of F16 values are summed in F32: a library that does not is found out, and computed with in another way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from native.client import Runner
from native.program import Program
from native.runner.device.accumulation import Probed, factors, keys, probe, sums_in_half
from native.runner.device.quirks import CPU, CPU_HALF_SUMS, HALF_SUMS, describe_traits
from native.runner.ggml_binding import ggml
from tests.runner_toys import NO_WEIGHTS, Table, linear, new_runner, relative_error, weight_file

RNG = np.random.default_rng(5)
CAST = describe_traits(CPU_HALF_SUMS)
INNER = 4096


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    """As the library is."""
    runner = new_runner()
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def casting() -> Iterator[Runner]:
    """As if the library summed in half precision."""
    runner = new_runner("--half-sums")
    yield runner
    runner.close()


def summed(products: np.ndarray, type_: str, lanes: int) -> float:
    """The sum of products [n], added up in that type in so many lanes, as a kernel does."""
    total = np.zeros(lanes, type_)
    with np.errstate(over="ignore"):
        for step in products.astype("f8").reshape(-1, lanes):
            total = (total.astype("f8") + step).astype(type_)  # fused: rounded once
        return float(np.add.accumulate(total, dtype=type_)[-1])


def probed(type_: str, lanes: int) -> Probed:
    """The probe's results from a library whose kernels sum in that type."""
    weights, column = factors()
    row = np.array([summed(each * column, type_, lanes) for each in weights.astype("f8")])
    low, high = (summed(key, type_, lanes) for key in keys())
    attention = np.array([1.0 / (1.0 + np.exp(low - high))])
    return Probed(np.tile(row, (16, 1)), row, attention, attention)


@pytest.mark.parametrize("lanes", [8, 32, 128])
def test_half_precision_is_told_from_f32(lanes: int) -> None:
    right, wrong = probed("f4", lanes), probed("f2", lanes)
    assert not sums_in_half(right)
    for kernel in Probed._fields:  # each alone gives it away
        assert sums_in_half(right._replace(**{kernel: getattr(wrong, kernel)}))
    for row in (0, 1):  # what overflows, and what is lost
        one = right.one_column.copy()
        one[row] = wrong.one_column[row]
        assert sums_in_half(right._replace(one_column=one))
    assert sums_in_half(right._replace(columns=np.full_like(right.columns, np.nan)))


def test_the_devices_say_what_the_probe_found(runner: Runner, casting: Runner) -> None:
    found = sums_in_half(probe(ggml.ggml_backend_reg_dev_get(ggml.ggml_backend_cpu_reg(), 0)))
    for each, expected in ((runner, found), (casting, True)):
        (cpu,) = [device for device in each.devices() if device.type == "CPU"]
        assert cpu.traits == (CAST if expected else ())
        assert (HALF_SUMS in cpu.features) == expected
    assert describe_traits(CPU) == ()


def test_sums_of_f16_weights_on_this_machine(runner: Runner, tmp_path: Path) -> None:
    """Whatever its library does: past 65504, and as exact as activations rounded to F16 let them be."""
    weights = np.abs(RNG.standard_normal((64, INNER))).astype("f2")
    x = (8 * np.abs(RNG.standard_normal((5, INNER)))).astype("f4")
    file = weight_file(tmp_path / "w", {"w": ("F16", weights.shape, weights.tobytes())})
    (found,) = runner.run(file, "CPU", linear(64, INNER, 5, "F16"), {"x": x})
    expected = x.astype("f8") @ weights.astype("f8").T
    assert expected.max() > 65504 / 4
    assert relative_error(found, expected) < 1e-4


def products() -> tuple[Program, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """x times a weight, times 16 of its rows, an image and a volume through kernels, attention; weights, inputs."""
    table = Table()
    weight, x = table.weight("w", (64, 256), "F16"), table.input("x", (5, 256))
    rows = table.op("view", (16, 256), weight, with_=(256, 16, 1, 1, 512, 8192, 8192, 16384), type_="F16")
    kernel, image = table.weight("k", (8, 4, 3, 3), "F16"), table.input("image", (1, 4, 12, 12))
    q = table.input("q", (1, 2, 7, 64))
    k, v = (table.op("cast", (1, 2, 9, 64), table.input(each, (1, 2, 9, 64)), with_=("F16",), type_="F16")
            for each in "kv")  # fmt: skip
    made = table.program(
        table.op("mul_mat", (5, 64), weight, x, with_=("F32",)),
        table.op("mul_mat", (5, 16), rows, x, with_=("F32",)),
        table.op("conv_2d", (1, 8, 12, 12), kernel, image, with_=(1, 1, 1, 1, 1, 1)),
        table.op(
            "conv_3d",
            (8, 1, 12, 12),
            table.op("reshape", (32, 1, 3, 3), kernel, type_="F16"),
            table.op("reshape", (4, 1, 12, 12), image),
            with_=(1, 1, 1, 1, 1, 0, 1, 1, 1, 1),
        ),
        table.op("flash_attn", (1, 7, 2, 64), q, k, v, with_=(0.125,)),
    )
    shapes = {row.name: tuple(reversed(row.ne)) for row in made.tensors if row.kind == "input"}
    inputs = {name: RNG.standard_normal(shape).astype("f4") for name, shape in shapes.items()}
    weights = {"w": RNG.standard_normal((64, 256)).astype("f2"), "k": RNG.standard_normal((8, 4, 3, 3)).astype("f2")}
    return made, weights, inputs


def expected(weights: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The same in F64; k and v rounded to F16."""
    x, w, kernel = inputs["x"].reshape(5, 256).astype("f8"), weights["w"].astype("f8"), weights["k"].astype("f8")
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(inputs["image"], ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3)
    )
    convolved = np.einsum("nchwij,ocij->nohw", windows.astype("f8"), kernel)
    k, v = (inputs[name].astype("f2").astype("f8") for name in "kv")
    scores = np.exp(0.125 * inputs["q"].astype("f8") @ k.swapaxes(2, 3))
    attended = (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(1, 2)
    return [x @ w.T, x @ w[32:48].T, convolved, convolved, attended]


def test_every_product_of_f16_is_computed_in_f32(casting: Runner, runner: Runner, tmp_path: Path) -> None:
    program, weights, inputs = products()
    file = weight_file(tmp_path / "w", {n: ("F16", w.shape, w.tobytes()) for n, w in weights.items()})
    right = expected(weights, inputs)
    for result, value in zip(casting.run(file, "CPU", program, inputs), right, strict=True):
        assert relative_error(result.reshape(value.shape), value) < 2e-6
    if HALF_SUMS not in runner.devices()[-1].features:  # so that the above cannot pass by itself
        for result, value in zip(runner.run(file, "CPU", program, inputs), right, strict=True):
            assert 2e-5 < relative_error(result.reshape(value.shape), value) < 2e-3


def test_other_operations_and_devices_keep_f16(casting: Runner) -> None:
    """Vulkan sums as its shaders do, and what is no product has no sum."""
    table = Table()
    half = table.op("cast", (3, 64), table.input("x", (3, 64)), with_=("F16",), type_="F16")
    twice = table.op("cast", (3, 64), table.op("add", (3, 64), half, half, type_="F16"), with_=("F32",))
    x = RNG.standard_normal((3, 64)).astype("f4")
    (found,) = casting.run(NO_WEIGHTS, "CPU", table.program(twice), {"x": x})
    assert np.array_equal(found.reshape(3, 64), 2 * x.astype("f2").astype("f4"))
    assert not any(CAST[0] in device.traits for device in casting.devices() if device.type != "CPU")
