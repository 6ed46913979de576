"""Weights in RAM for a GPU: which pass through it and when, the same bits as on it, budgets, and who makes room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch as replaced

import gguf
import numpy as np
import pytest

from native.client import Interrupted, OutOfMemory, Runner, RunnerError
from native.client.connection import RunnerProcess
from native.placement import DEVICE, RAM, Placement
from native.program import Program
from native.runner.graph.segments import cuts
from native.runner.weight_memory.streamed import plan, stops
from native.weights.weight_set import WeightSet
from native.wire.messages import ModelMemory, Reply, Request
from tests.runner_toys import Table, new_runner, weight_file

MIB = 1 << 20
SIDE, TOKENS, LAYERS = 1536, 3, 7
A_LAYER_EACH = ("--largest-segment", str(2 * SIDE * SIDE * TOKENS))
LAYER = SIDE * SIDE // 32 * 34  # bytes
WEIGHT_BYTES = LAYERS * (LAYER + SIDE * 4)
Q8_0 = gguf.GGMLQuantizationType.Q8_0
IN_RAM, ON_DEVICE = Placement("Vulkan0", RAM), Placement("Vulkan0", DEVICE)
X = np.random.default_rng(3).standard_normal((TOKENS, SIDE), "f4")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = new_runner(*A_LAYER_EACH)
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> WeightSet:
    """Layers of 2.4 MiB and vectors of 6 KiB."""
    return make_layers(tmp_path_factory.mktemp("layers") / "w", 1)


def make_layers(path: Path, seed: int) -> WeightSet:
    rng = np.random.default_rng(seed)
    tensors = {}
    for n in range(LAYERS):
        values = rng.standard_normal((SIDE, SIDE), "f4") / SIDE**0.5
        tensors[f"w{n}"] = ("Q8_0", (SIDE, SIDE), gguf.quants.quantize(values, Q8_0).tobytes())
        tensors[f"b{n}"] = ("F32", (SIDE,), rng.standard_normal(SIDE, "f4").tobytes())
    return weight_file(path, tensors)


def chain(order: list[int]) -> Program:
    """x through these layers, one after the other."""
    table = Table()
    y = table.input("x", (TOKENS, SIDE))
    rows: dict[int, tuple[int, int]] = {}
    for n in order:
        if n not in rows:
            rows[n] = table.weight(f"w{n}", (SIDE, SIDE), "Q8_0"), table.weight(f"b{n}", (SIDE,))
        weight, bias = rows[n]
        y = table.op("add", (TOKENS, SIDE), table.op("mul_mat", (TOKENS, SIDE), weight, y, with_=("F32",)), bias)
    return table.program(y)


def held(runner: Runner, weights: WeightSet) -> ModelMemory:
    (model,) = [model for model in runner.memory().models if model.digest == weights.digest and not model.budget]
    return model


def vulkan(runner: Runner) -> tuple[int, int]:
    """Bytes held on it now and at most."""
    (device,) = [device for device in runner.memory().devices if device.name == "Vulkan0"]
    return device.held, device.peak


def test_segments_end_where_other_weights_begin() -> None:
    """Where the device could be given everything at once; weights whose uses interleave stay together."""
    uses = {"a": (0, 0), "b": (2, 4), "c": (3, 5), "d": (6, 6), "e": (7, 7), "everywhere": (0, 99)}
    sizes = dict.fromkeys(uses, 30 * MIB) | {"d": 60 * MIB}
    found = stops(uses, sizes, 100)
    assert found == {2, 6, 7}
    assert [end for end, _ in cuts([1.0] * 10, 1e12, found)] == [2, 6, 7, 10]


def test_plan_blocks_share_no_weight() -> None:
    uses = {"a": (0, 0), "b": (1, 2), "c": (2, 2), "d": (4, 4), "everywhere": (0, 99)}
    planned = plan(uses, dict.fromkeys(uses, 10), 100, None)
    assert planned.kept == ("everywhere",)
    assert [(block.first, block.last, block.names) for block in planned.blocks] == [
        (0, 0, ("a",)), (1, 2, ("b", "c")), (4, 4, ("d",)),
    ]  # fmt: skip
    assert planned.staging == (10, 20)
    assert planned.nbytes == 40


@pytest.mark.parametrize(("room", "kept", "nbytes"), [(35, 1, 30), (20, 0, 20), (19, 0, 20), (40, 2, 40), (60, 6, 60)])
def test_plan_keeps_what_fits(room: int, kept: int, nbytes: int) -> None:
    uses = {f"w{n}": (n, n) for n in range(6)}
    planned = plan(uses, dict.fromkeys(uses, 10), 6, room)
    assert (len(planned.kept), planned.nbytes) == (kept, nbytes)


@pytest.mark.parametrize(
    "order", [list(range(LAYERS)), [0, 1, 2, 3], [0], [3, 3, 1, 0, 0, 2, 6], [5, 0, 1, 2, 3, 4, 5]], ids=str
)
def test_streamed_weights_give_the_same_bits(runner: Runner, layers: WeightSet, order: list[int]) -> None:
    program = chain(order)
    (expected,) = runner.run(layers, ON_DEVICE, program, {"x": X})
    runner.unload(layers.digest, ON_DEVICE)
    for _ in range(3):
        (found,) = runner.run(layers, IN_RAM, program, {"x": X})
        np.testing.assert_array_equal(found, expected)
    model = held(runner, layers)
    assert (model.mapped, model.streamed, model.copied) == (0, LAYERS * LAYER, LAYERS * SIDE * 4)
    assert model.staging <= max(2, len(set(order))) * LAYER
    if order == list(range(LAYERS)):
        assert model.staging == 2 * LAYER
    runner.unload(layers.digest, IN_RAM)
    assert vulkan(runner)[0] == 0


def test_programs_by_turns_on_streamed_weights(runner: Runner, layers: WeightSet) -> None:
    programs = [chain([0, 1, 2, 3, 4]), chain([4, 2, 0])]
    expected = [runner.run(layers, ON_DEVICE, program, {"x": X})[0] for program in programs]
    for n in (0, 1, 0, 1, 1):
        (found,) = runner.run(layers, IN_RAM, programs[n], {"x": X})
        np.testing.assert_array_equal(found, expected[n])
    for placement in (ON_DEVICE, IN_RAM):
        runner.unload(layers.digest, placement)


def test_budget_too_small_names_the_smallest_that_works(runner: Runner, layers: WeightSet) -> None:
    program = chain(list(range(LAYERS)))
    (expected,) = runner.run(layers, IN_RAM, program, {"x": X})
    with pytest.raises(RunnerError, match=r"budget of toy on Vulkan0 is 3 MiB, but it needs ([\d,]+) MiB") as caught:
        runner.run(layers, Placement("Vulkan0", RAM, 3 * MIB), program, {"x": X})
    smallest = int(str(caught.value).split("it needs ")[1].split()[0]) * MIB
    whole = held(runner, layers)
    assert smallest - MIB < whole.copied + whole.staging + whole.compute + whole.constants <= smallest
    stagings = []
    for budget in (smallest, smallest + 6 * MIB, smallest + 64 * MIB):
        placement = Placement("Vulkan0", RAM, budget)
        (found,) = runner.run(layers, placement, program, {"x": X})
        np.testing.assert_array_equal(found, expected)
        (model,) = [model for model in runner.memory().models if model.budget == budget]
        assert model.copied + model.staging + model.compute + model.constants <= budget
        stagings.append(model.staging)
        runner.unload(layers.digest, placement)
    assert stagings == [2 * LAYER, 4 * LAYER, LAYERS * LAYER]
    with pytest.raises(RunnerError, match=r'budget of toy on Vulkan0 is 9 MiB.*choose "ram" for its weights'):
        runner.run(layers, Placement("Vulkan0", DEVICE, 9 * MIB), program, {"x": X})
    runner.unload(layers.digest, IN_RAM)


def test_interrupted_run_leaves_streaming_in_order(runner: Runner, layers: WeightSet) -> None:
    program = chain(list(range(LAYERS)))
    (expected,) = runner.run(layers, IN_RAM, program, {"x": X})
    seen: list[float] = []
    with pytest.raises(Interrupted):
        runner.run(layers, IN_RAM, program, {"x": X}, interrupted=lambda: bool(seen), progress=seen.append)
    assert seen
    assert seen[-1] < 1
    (found,) = runner.run(layers, IN_RAM, program, {"x": X})
    np.testing.assert_array_equal(found, expected)
    runner.unload(layers.digest, IN_RAM)


@pytest.mark.parametrize("memory", [12 * MIB, WEIGHT_BYTES + 2 * TOKENS * SIDE * 4 - 1])
def test_usual_placement_streams_what_does_not_fit(layers: WeightSet, memory: int) -> None:
    """With 12 MiB the weights are too large, with the other figure weights and compute buffer together."""
    program = chain(list(range(LAYERS)))
    runner = new_runner(*A_LAYER_EACH, "--device-memory", str(memory))
    (found,) = runner.run(layers, "Vulkan0", program, {"x": X})
    assert held(runner, layers).staging > 0
    assert vulkan(runner)[1] <= memory
    with pytest.raises(OutOfMemory):
        runner.run(layers, ON_DEVICE, program, {"x": X})
    runner.close()
    runner = new_runner(*A_LAYER_EACH)
    (expected,) = runner.run(layers, "Vulkan0", program, {"x": X})
    assert held(runner, layers).staging == 0
    runner.close()
    np.testing.assert_array_equal(found, expected)


def test_patches_stay_where_weights_are_streamed_after_all(layers: WeightSet) -> None:
    """Weights and patches fit, the compute buffer beside them does not: only the weights are loaded anew."""
    patched = layers.with_arrays({"lora": np.ones((8, SIDE), "f4")})
    program, patch = chain(list(range(LAYERS))), 8 * SIDE * 4  # bytes
    runner = new_runner(*A_LAYER_EACH, "--device-memory", str(WEIGHT_BYTES + patch + 2 * TOKENS * SIDE * 4 - 1))
    exchanged = Counter[str]()
    exchange = RunnerProcess.exchange

    def counted(process: RunnerProcess, request: Request, *arguments: Any, **more: Any) -> Reply:
        exchanged[type(request).__name__] += 1
        return exchange(process, request, *arguments, **more)

    with replaced.object(RunnerProcess, "exchange", counted):
        runner.run(patched, "Vulkan0", program, {"x": X})
    model, memory = held(runner, patched), runner.memory()
    assert (model.arrays, memory.loads) == (patch, 2)
    assert model.staging > 0
    assert exchanged == {"RunRequest": 3, "LoadRequest": 2, "ArrayRequest": 1, "ProgramRequest": 1}
    runner.close()


def test_least_recently_used_makes_room_and_comes_back(tmp_path: Path) -> None:
    """Each set takes 17 MiB; 40 hold two sets, not three."""
    program = chain(list(range(LAYERS)))
    sets = [make_layers(tmp_path / f"w{n}", n) for n in range(3)]
    roomy, tight = new_runner(), new_runner("--device-memory", str(40 * MIB))
    expected = [roomy.run(weights, ON_DEVICE, program, {"x": X})[0] for weights in sets]
    roomy.close()
    there: list[set[int]] = []
    for n in (0, 1, 0, 2, 2, 1):
        (found,) = tight.run(sets[n], ON_DEVICE, program, {"x": X})
        np.testing.assert_array_equal(found, expected[n])
        digests = {model.digest for model in tight.memory().models}
        there.append({n for n, weights in enumerate(sets) if weights.digest in digests})
    assert there == [{0}, {0, 1}, {0, 1}, {0, 2}, {0, 2}, {1, 2}]
    assert vulkan(tight)[1] <= 40 * MIB
    tight.close()
