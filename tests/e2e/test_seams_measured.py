"""Planned bytes beside what others count: Vulkan's own allocations, and the private memory of the process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from native.client import Runner
from native.lower import Lowered, LowerOptions, WeightType, lower
from native.placement import DEVICE, Placement
from native.trace import trace
from native.weights.weight_set import WeightSet
from native.wire.messages import Step
from tests.bench import hollow
from tests.runner_toys import new_runner

MIB = 1 << 20
ENOUGH = 1 << 40
F16_OVERFLOW_SCALE = 64.0  # of activations that pass F16, as in nodes.remote_module


def prepared(folder: Path, name: str, blocks: int, matrices: str, pixels: int) -> tuple[WeightSet, Lowered, Any]:
    """Some blocks of a model at their real width, with a program and its inputs."""
    model = hollow.MODELS[name]
    module, inputs = model.build(blocks).eval(), model.inputs(pixels)
    weights = hollow.weight_set(folder / name, name, module, matrices)
    types = {key: WeightType(kind, shape) for key, (shape, kind) in hollow.types(module, matrices).items()}
    options = LowerOptions(activation_scale=F16_OVERFLOW_SCALE if model.wide else 1.0)
    lowered = lower(trace(name, module, model.function, inputs), types, options)
    arrays = lowered.host(inputs)
    arrays |= {key: inputs[key].to(torch.float32).contiguous().numpy() for key in lowered.device_inputs}
    return weights, lowered, arrays


def planned(runner: Runner, weights: WeightSet, device: str, lowered: Lowered) -> int:
    steps = [Step("run", weights, Placement(device, DEVICE), lowered.program)]
    done = runner.dry_run({"CPU": ENOUGH, "Vulkan0": ENOUGH}, steps)
    assert done.error is None
    return done.steps[-1].peak[device]


def assert_as_planned(taken: int, foretold: int) -> None:
    """1 % and 16 MiB is what a plan may be off by."""
    assert abs(taken - foretold) <= 0.01 * foretold + 16 * MIB, (taken / MIB, foretold / MIB)


@pytest.mark.parametrize(("name", "blocks", "matrices"), [("clip", 4, "F16"), ("clip", 12, "F16")])
def test_what_vulkan_gives(tmp_path: Path, name: str, blocks: int, matrices: str) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library, source = tmp_path / "device_memory.so", Path(__file__).parents[1] / "device_memory.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True)
    weights, lowered, arrays = prepared(tmp_path, name, blocks, matrices, 64)
    counted = tmp_path / "allocated"
    runner = new_runner(LD_PRELOAD=str(library), ALLOCATED=str(counted))
    foretold = planned(runner, weights, "Vulkan0", lowered)
    runner.run(weights, Placement("Vulkan0", DEVICE), lowered.program, arrays, checked=False)
    assert foretold > 64 * MIB
    assert_as_planned(int(counted.read_text()), foretold)
    runner.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the runner's private bytes hold more than its buffers")
@pytest.mark.parametrize(("name", "blocks", "matrices"), [("t5", 2, "Q4_0"), ("flux", 1, "Q4_K")])
def test_what_the_system_gives(tmp_path: Path, name: str, blocks: int, matrices: str) -> None:
    """Repacked weights and a compute buffer on the CPU."""
    weights, lowered, arrays = prepared(tmp_path, name, blocks, matrices, 256)
    runner = new_runner()
    foretold = planned(runner, weights, "CPU", lowered)
    before = runner.memory().private
    runner.run(weights, Placement("CPU", DEVICE), lowered.program, arrays, checked=False)
    assert foretold > 64 * MIB
    assert_as_planned(runner.memory().private - before, foretold)
    runner.close()
