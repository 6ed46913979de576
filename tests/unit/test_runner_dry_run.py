"""A dry run predicts a real run: the same bytes on every device after every step, and the same error."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from native.client import Runner, RunnerError
from native.ggml_types import tensor_bytes
from native.placement import RESIDENCIES, Placement
from native.program import Program
from native.runner.device.quirks import HALF_SUMS
from native.weights import read_header
from native.weights.names import weight_set
from native.weights.scales import under
from native.weights.weight_set import WeightSet
from native.wire.messages import DeviceInfo, DryRun, ExternalModel, ModelMemory, Step
from tests.faults import damage
from tests.runner_toys import DEVICES, Table, linear, new_runner, weight_file

MIB = 1 << 20
SIDE, LAYERS = 512, 6
TYPES = ("F32", "F16", "Q8_0", "Q4_0", "Q4_K")
LIMITS = (64 * MIB, 9 * MIB, 4 * MIB)  # of Vulkan0
TOKENS = (3, 700)  # small beside the weights, and large
ENOUGH = 1 << 40


def layers(path: Path, stored: str) -> WeightSet:
    """Square matrices of one type, vectors, and an embedding of which rows are taken."""
    rng = np.random.default_rng(7)
    tensors = {}
    for n in range(LAYERS):
        content = rng.integers(0, 4, tensor_bytes(stored, (SIDE, SIDE)), np.uint8).tobytes()
        tensors[f"w{n}"] = (stored, (SIDE, SIDE), content)
        tensors[f"b{n}"] = ("F32", (SIDE,), bytes(4 * SIDE))
    tensors["odd"] = ("BF16", (3, 5, SIDE), bytes(3 * 5 * SIDE * 2))  # converted when it is loaded
    return weight_file(path, tensors)


def chain(stored: str, tokens: int) -> Program:
    """x through all layers, with a constant and, at the end, a layer that is no factor of a product."""
    table = Table()
    y = table.input("x", (tokens, SIDE))
    y = table.op("mul", (tokens, SIDE), y, table.constant("c", np.ones((tokens, SIDE), "f4")))
    for n in range(LAYERS - 1):
        weight, bias = table.weight(f"w{n}", (SIDE, SIDE), stored), table.weight(f"b{n}", (SIDE,))
        y = table.op("add", (tokens, SIDE), table.op("mul_mat", (tokens, SIDE), weight, y, with_=("F32",)), bias)
    row = table.op("get_rows", (1, SIDE), table.weight(f"w{LAYERS - 1}", (SIDE, SIDE), stored),
                   table.input("i", (1,), "I32"))  # fmt: skip
    return table.program(table.op("add", (tokens, SIDE), y, row))


def taken(model: ModelMemory) -> ModelMemory:
    """All that it takes; a mapped file counts as a buffer, but only where it is mapped."""
    return replace(model, buffers=0)


def refused(runner: Runner, step: Step) -> RunnerError | None:
    """Why a step cannot be done."""
    try:
        do(runner, step)
    except RunnerError as error:
        return error
    return None


def do(runner: Runner, step: Step) -> None:
    if step.do == "load":
        runner.load(step.weights, step.placement)
    elif step.do == "release":
        runner.release(step.weights.digest, step.placement)
    elif step.do == "unload":
        runner.unload(step.weights.digest, step.placement)
    else:
        assert step.program is not None
        rows = step.program.tensors
        shapes = {row.name: tuple(reversed(row.ne[:2])) for row in rows if row.kind == "input"}
        inputs = {"x": np.zeros(shapes["x"], "f4"), "i": np.zeros(1, "i4")}
        runner.run(step.weights, step.placement, step.program, inputs, checked=False)


def compare(runner: Runner, steps: list[Step], dry_run: DryRun) -> None:
    """Do the steps and compare what they take with what was foretold."""
    for number, step in enumerate(steps):
        error = refused(runner, step)
        if error is not None:
            assert number == len(dry_run.steps)
            assert type(error) is type(dry_run.error)
            if step.placement.device != "CPU":  # where the message tells how much memory this machine has free
                assert str(error) == str(dry_run.error)
            return
        assert number < len(dry_run.steps), dry_run.error
        foretold, memory = dry_run.steps[number], runner.memory()
        assert foretold.held == {device.name: device.held for device in memory.devices}
        assert [taken(model) for model in foretold.models] == [taken(model) for model in memory.models]
        most = {name: max(each.peak[name] for each in dry_run.steps[: number + 1]) for name in DEVICES}
        assert most == {device.name: device.peak for device in memory.devices}
    assert dry_run.error is None
    assert len(dry_run.steps) == len(steps)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, WeightSet]:
    folder = tmp_path_factory.mktemp("sets")
    return {stored: layers(folder / stored, stored) for stored in TYPES}


@pytest.fixture(scope="module")
def dry_runner() -> Runner:
    """A runner for dry runs only."""
    return new_runner("--largest-segment", "1e6")


def random_steps(sets: dict[str, WeightSet], seed: int) -> list[Step]:
    draw = random.Random(seed)
    steps = []
    for _ in range(16):
        stored = draw.choice(TYPES)
        weights = sets[stored]
        if draw.random() < 0.3:  # as with a LoRA
            weights = weights.with_arrays({"lora": np.full((8, SIDE), draw.randrange(2), "f4")})
        budget = draw.choice((0, 0, 0, 0, 0, 2 * MIB, 9 * MIB))
        placement = Placement(draw.choice(DEVICES), draw.choice(RESIDENCIES), budget)
        do = draw.choice(("load", "run", "run", "run", "run", "release", "unload"))
        program = chain(stored, draw.choice(TOKENS)) if do == "run" else None
        steps.append(Step(do, weights, placement, program))
    return steps


@pytest.mark.turns(4)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("seed", range(8))
def test_random_steps(dry_runner: Runner, sets: dict[str, WeightSet], limit: int, seed: int) -> None:
    steps = random_steps(sets, seed)
    runner = new_runner("--largest-segment", "1e6", "--device-memory", str(limit))
    runner.devices()
    dry_run = dry_runner.dry_run({"CPU": ENOUGH, "Vulkan0": limit}, steps)
    compare(runner, steps, dry_run)
    runner.close()


def test_random_steps_meet_all_that_can_happen(dry_runner: Runner, sets: dict[str, WeightSet]) -> None:
    """The steps above: streamed and repacked weights, sets that give way, too small budgets and too small devices."""
    ends, streamed, repacked, gave_way = set(), 0, 0, 0
    for limit in LIMITS:
        for seed in range(8):
            steps = random_steps(sets, seed)
            dry_run = dry_runner.dry_run({"CPU": ENOUGH, "Vulkan0": limit}, steps)
            ends.add(type(dry_run.error).__name__)
            models = [each.models for each in dry_run.steps]
            streamed += any(model.staging for each in models for model in each)
            repacked += any(model.repacked for each in models for model in each)
            gave_way += any(
                {model.digest for model in before} - {model.digest for model in after}
                for step, before, after in zip(steps[1:], models, models[1:], strict=False)
                if step.do != "unload"
            )
    assert ends == {"NoneType", "OutOfMemory", "RunnerError"}
    assert min(streamed, repacked, gave_way) > 0


def test_f16_weights_that_are_computed_with_as_f32(dry_runner: Runner, sets: dict[str, WeightSet]) -> None:
    """Each is cast in the compute buffer for its product; for another machine's CPU, too, that is said to need it."""
    runner = new_runner("--half-sums")
    runner.devices()
    placements = [Placement("CPU", residency) for residency in RESIDENCIES]
    steps = [Step("run", sets["F16"], each, chain("F16", tokens)) for each in placements for tokens in TOKENS]
    capacity = {"CPU": ENOUGH, "Vulkan0": MIB}
    dry_run = runner.dry_run(capacity, steps)
    compare(runner, steps, dry_run)
    (cpu,) = [device for device in runner.devices() if device.type == "CPU"]
    as_there = DeviceInfo("CPU", cpu.type, cpu.description, cpu.features, cpu.small_bar, sys.platform)
    assert dry_runner.dry_run(capacity, steps, [as_there]).steps == dry_run.steps
    as_here = replace(as_there, features=tuple(each for each in cpu.features if each != HALF_SUMS))
    without = dry_runner.dry_run(capacity, steps, [as_here]).steps
    for cast, step in zip(dry_run.steps, without, strict=True):
        more = cast.models[0].compute - step.models[0].compute
        assert 2 * SIDE * SIDE < more <= 4 * SIDE * SIDE, more  # the cast weight, but for what was free beside it
    runner.close()


def test_a_tensor_larger_than_software_takes_is_none_for_a_card(dry_runner: Runner, tmp_path: Path) -> None:
    """As Wan 14B's in F16, which lavapipe refuses to multiply with."""
    rows, columns = 30720, 5120
    path = tmp_path / "large.safetensors"
    header = damage.header_of({"w": ("F16", (rows, columns))}, {})
    damage.write(path, damage.whole(header), header.size)
    read = read_header(str(path))
    steps = [Step("run", weight_set(read, "large", under(read, ""), ["w"]), Placement("Vulkan0", "device"),
                  linear(rows, columns, 1, "F16"))]  # fmt: skip
    (here,) = [device for device in dry_runner.devices() if device.name == "Vulkan0"]
    card = DeviceInfo("Vulkan0", "GPU", "AMD Radeon RX 580 Series (RADV POLARIS10)", here.features, True, "linux")
    capacity = {"CPU": ENOUGH, "Vulkan0": ENOUGH}
    assert "cannot compute it" in str(dry_runner.dry_run(capacity, steps).error)
    assert dry_runner.dry_run(capacity, steps, [card]).error is None


def test_nothing_is_opened_and_nothing_stays(dry_runner: Runner, sets: dict[str, WeightSet], tmp_path: Path) -> None:
    weights = layers(tmp_path / "gone", "Q4_0")
    (tmp_path / "gone").unlink()
    dry_runner.devices()  # of which nothing is known before
    before = dry_runner.memory()
    steps = [Step("run", weights, Placement(device, "device"), chain("Q4_0", 3)) for device in DEVICES]
    dry_run = dry_runner.dry_run({"CPU": ENOUGH, "Vulkan0": 64 * MIB}, steps)
    assert dry_run.error is None
    assert min(dry_run.steps[-1].held.values()) > LAYERS * SIDE * SIDE // 2
    after = dry_runner.memory()
    assert [device.held for device in after.devices] == [device.held for device in before.devices]
    assert (after.models, after.loads) == (before.models, before.loads)


def test_a_device_that_is_not_there(dry_runner: Runner, sets: dict[str, WeightSet]) -> None:
    with pytest.raises(RunnerError, match="there is no device 'Vulkan9'"):
        dry_runner.dry_run({"Vulkan9": MIB}, [])
    steps = [Step("load", sets["F16"], Placement("Vulkan0"))]
    with pytest.raises(RunnerError, match="Vulkan0"):
        raise dry_runner.dry_run({"CPU": MIB}, steps).error or AssertionError


def test_a_model_in_another_process(dry_runner: Runner, sets: dict[str, WeightSet]) -> None:
    """It makes others go, goes for them unless it is kept, and gives way to the next of its kind."""
    here = Placement("Vulkan0", "device")
    load = Step("load", sets["F32"], here)  # 6.3 MB
    capacity = {"Vulkan0": 9 * MIB, "CPU": ENOUGH}

    def held(*steps: Step | ExternalModel) -> list[int]:
        done = dry_runner.dry_run(capacity, steps)
        assert done.error is None, done.error
        return [step.held["Vulkan0"] for step in done.steps]

    (alone,) = held(load)
    small, large = ({"Vulkan0": {"weights": n * MIB}} for n in (1, 7))
    assert held(load, ExternalModel("a", small, False), load) == [alone, alone + MIB, alone]
    assert held(load, ExternalModel("a", large, False), load) == [alone, 7 * MIB, alone]
    assert held(ExternalModel("a", small, True), load) == [MIB, MIB + alone]
    assert held(ExternalModel("a", small, True), ExternalModel("b", large, True)) == [MIB, 7 * MIB]
    error = dry_runner.dry_run(capacity, [ExternalModel("a", large, True), load]).error
    assert "the weights of" in str(error)
    error = dry_runner.dry_run(capacity, [load, ExternalModel("a", {"Vulkan0": {"KV cache": 10 * MIB}}, False)]).error
    assert "the language model a needs 10.0 MiB on Vulkan0, where 9.0 MiB are free" in str(error)


def test_programs_of_any_size_together(dry_runner: Runner, sets: dict[str, WeightSet]) -> None:
    """More than the runner remembers from one request to the next; with and without the constants' values."""
    placement = Placement("CPU")
    programs = [chain("F32", 3000 + n) for n in range(10)]  # 6 MiB of constants each
    steps = [Step("load", sets["F32"], placement), *(Step("run", sets["F32"], placement, each) for each in programs)]
    whole = dry_runner.dry_run({"CPU": ENOUGH}, steps)
    assert whole.error is None
    assert len(whole.steps) == len(steps)
    counted = [replace(step, program=step.program and step.program.without_values()) for step in steps]
    assert [step.peak for step in dry_runner.dry_run({"CPU": ENOUGH}, counted).steps] == [s.peak for s in whole.steps]
