"""FLUX.1 of real width on lavapipe's own 2 GiB: dry runs predict real runs, near the limit and beyond it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch

from native.client import Interrupted, OutOfMemory, Runner
from native.lower import Lowered, WeightType, lower
from native.placement import RESIDENCIES, Placement
from native.trace import trace
from native.weights.weight_set import WeightSet
from native.wire.messages import Step
from tests.bench import hollow
from tests.runner_toys import new_runner

GPU = "Vulkan0"
FLUX = hollow.MODELS["flux"]
# (blocks of each kind, type, pixels): from well below the limit to weights that fit and a compute buffer that does not,
# and weights that do not
CASES = ((3, "Q8_0", 256), (4, "Q8_0", 256), (2, "F16", 256), (2, "F16", 1024), (6, "Q4_0", 512), (8, "Q4_0", 256))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hollow")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = new_runner()
    yield runner
    runner.close()


@cache
def weights(folder: Path, blocks: int, matrices: str) -> WeightSet:
    return hollow.weight_set(folder / f"{blocks}-{matrices}", "flux", FLUX.build(blocks), matrices)


@cache
def lowered(blocks: int, matrices: str, pixels: int) -> Lowered:
    module = FLUX.build(blocks).eval()
    types = {name: WeightType(kind, shape) for name, (shape, kind) in hollow.types(module, matrices).items()}
    return lower(trace("flux", module, FLUX.function, FLUX.inputs(pixels)), types)


def allocates(runner: Runner, step: Step, inputs: dict[str, torch.Tensor]) -> bool:
    """Whether the runner gets as far as computing; it goes no further."""
    assert step.program is not None
    low = {name: x.to(torch.float32).contiguous().numpy() for name, x in inputs.items()}
    computing = lambda: any(model.compute for model in runner.memory().models)  # noqa: E731
    try:
        runner.run(step.weights, step.placement, step.program, low, interrupted=computing)
    except OutOfMemory:
        return False
    except Interrupted:
        pass
    return True


@pytest.mark.turns(5)
@pytest.mark.parametrize(("case", "residency"), list(product(CASES, RESIDENCIES)), ids=str)
def test_accepted_allocates_and_rejected_does_not(
    runner: Runner, folder: Path, case: tuple[int, str, int], residency: str
) -> None:
    blocks, matrices, pixels = case
    total = next(device.total for device in runner.devices() if device.name == GPU)
    low = lowered(*case)
    step = Step("run", weights(folder, blocks, matrices), Placement(GPU, residency), low.program)
    dry_run = runner.dry_run({GPU: total}, [step])
    inputs = FLUX.inputs(pixels)
    arrays = {name: torch.from_numpy(array) for name, array in low.host(inputs).items()}
    arrays |= {name: inputs[name] for name in low.device_inputs}
    assert allocates(runner, step, arrays) == (dry_run.error is None)
    if dry_run.error is None:
        assert runner.peaks[GPU] == dry_run.steps[-1].peak[GPU] <= total
    runner.unload(step.weights.digest, step.placement)


def test_both_are_met(runner: Runner, folder: Path) -> None:
    total = next(device.total for device in runner.devices() if device.name == GPU)
    assert total == 2 << 30
    fits = []
    for blocks, matrices, pixels in CASES:
        program = lowered(blocks, matrices, pixels).program
        step = Step("run", weights(folder, blocks, matrices), Placement(GPU, "device"), program)
        fits.append(runner.dry_run({GPU: total}, [step]).error is None)
    assert 2 <= sum(fits) <= len(fits) - 2, fits
