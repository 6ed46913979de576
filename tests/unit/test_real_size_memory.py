"""GPU memory of FLUX.1, T5-XXL and CLIP-L at their real size, by dry run: nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from native.client import Runner, RunnerError
from native.lower import Lowered, LowerOptions, WeightType, lower
from native.placement import AUTO, DEVICE, RAM, Placement
from native.planning import known_profiles
from native.trace import Trace, trace
from native.weights.weight_set import WeightSet
from native.wire.messages import DryRun, Step
from tests.bench import hollow
from tests.runner_toys import new_runner

GPU = "Vulkan0"
CARD = 8 << 30  # bytes of an RX 580
F16_OVERFLOW_SCALE = 64.0  # of activations that pass F16, as in nodes.remote_module


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = new_runner()
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hollow")


@cache
def traced(name: str, pixels: int) -> Trace:
    torch.manual_seed(0)
    model = hollow.MODELS[name]
    return trace(name, model.build(None).eval(), model.function, model.inputs(pixels))


@cache
def lowered(name: str, pixels: int, matrices: str) -> Lowered:
    model = hollow.MODELS[name]
    types = hollow.types(model.build(None), matrices).items()
    options = LowerOptions(activation_scale=F16_OVERFLOW_SCALE if model.wide else 1.0)
    return lower(traced(name, pixels), {key: WeightType(kind, shape) for key, (shape, kind) in types}, options)


@cache
def weights(folder: Path, name: str, matrices: str) -> WeightSet:
    return hollow.weight_set(folder / f"{name}-{matrices}", name, hollow.MODELS[name].build(None), matrices)


def drawn(
    runner: Runner, folder: Path, capacity: int, pixels: int, placement: Placement, *models: str, there: str = ""
) -> DryRun:
    """The models' phases on one GPU, one after the other, each named NAME-TYPE. there: a profile whose GPU it is."""
    steps = []
    for model in models:
        name, _, matrices = model.partition("-")
        held = weights(folder, name, matrices)
        program = lowered(name, pixels, matrices).program
        steps += [Step("load", held, placement), Step("run", held, placement, program)]
    return runner.dry_run({GPU: capacity}, steps, known_profiles()[there].foreign if there else ())


def most(dry_run_of: DryRun) -> int:
    assert dry_run_of.error is None
    return max(step.peak[GPU] for step in dry_run_of.steps)


def test_flux_q4_k_at_1024(runner: Runner, folder: Path) -> None:
    """With encoders and VAE on the CPU: weights and compute buffer."""
    taken = most(drawn(runner, folder, CARD, 1024, Placement(GPU, DEVICE), "flux-Q4_K"))
    assert 6.8e9 < taken <= 7.2e9


def test_encoders_share_the_gpu_in_phases(runner: Runner, folder: Path) -> None:
    """T5, CLIP and FLUX.1 in Q4_K at 512x512, on a card that holds the largest phase and not all of them."""
    placement, alone = Placement(GPU, DEVICE), ("flux-Q4_K",)
    phases = ("t5-Q4_K", "clip-F16", "flux-Q4_K")
    taken = most(drawn(runner, folder, 7_000_000_000, 512, placement, *phases))
    assert taken <= 7.0e9
    assert most(drawn(runner, folder, CARD, 512, placement, *alone)) <= taken
    assert most(drawn(runner, folder, 4 * CARD, 512, placement, *phases)) >= 9.5e9


@pytest.mark.parametrize("matrices", ["Q8_0", "F16"])
def test_files_larger_than_the_card_run(runner: Runner, folder: Path, matrices: str) -> None:
    """12.7 and 23.8 GB through 8 GiB."""
    dry_run_of = drawn(runner, folder, CARD, 1024, Placement(GPU, AUTO), f"flux-{matrices}")
    assert most(dry_run_of) <= CARD
    (model,) = dry_run_of.steps[-1].models
    assert model.streamed > CARD
    with pytest.raises(RunnerError, match="choose a smaller picture"):
        raise drawn(runner, folder, CARD, 1024, Placement(GPU, DEVICE), f"flux-{matrices}").error or AssertionError


@pytest.mark.parametrize("card", ["RX 580 8 GB, Linux", "GTX 1060 6 GB, Windows", "RTX 3060 12 GB, Windows"])
def test_small_pictures_stream_in_little_memory(runner: Runner, folder: Path, card: str) -> None:
    """Also where the card may be given so much at once that it is the work of many layers."""
    for pixels in (256, 512, 1024):
        error = drawn(runner, folder, CARD, pixels, Placement(GPU, RAM, 1 << 20), "flux-F16", there=card).error
        assert int(str(error).split("it needs ")[1].split(" MiB")[0].replace(",", "")) < 1000


def test_the_smallest_budget_is_named(runner: Runner, folder: Path) -> None:
    """Two blocks and the compute buffer."""
    flux = f"flux-{'Q8_0'}"
    error = drawn(runner, folder, CARD, 1024, Placement(GPU, RAM, 100 << 20), flux).error
    named = int(str(error).split("it needs ")[1].split(" MiB")[0].replace(",", ""))
    assert named < 1500
    assert most(drawn(runner, folder, CARD, 1024, Placement(GPU, RAM, named << 20), flux)) <= named << 20
    assert drawn(runner, folder, CARD, 1024, Placement(GPU, RAM, (named - 1) << 20), flux).error is not None
