"""Operations that no program can express: torch computes them between two programs, wherever they stand in a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from native.client import Runner
from native.engines.dry_run import DryRunModel, Recorder
from native.engines.ggml import GgmlModel
from native.lower import LowerError, LowerOptions
from native.placement import Placement
from native.planning import Machine
from native.trace import as_one_step
from native.weights import WeightSet

from .operation_cases.case import Inputs, Parameters
from .places import Place

odd = torch.special.bessel_j0  # no program has it, nor has torch a decomposition of it


@dataclass(frozen=True)
class Case:
    """A function, and how many programs and islands it makes."""

    name: str
    function: Callable[[Any, Inputs], Any]
    programs: int
    islands: int = 1


def _skip(m: Any, t: Inputs) -> Tensor:
    x = F.linear(t["x"], m.w)
    return F.linear(odd(x), m.w) + x + t["x"]


def _twice(m: Any, t: Inputs) -> Tensor:
    x = F.silu(t["x"])
    y = odd(F.linear(odd(F.linear(x, m.w)), m.w))
    return y + x * t["y"]


def _written(m: Any, t: Inputs) -> Tensor:
    x = t["x"] * 2
    x[:, 1:3] = odd(x[:, 1:3])
    return F.linear(x, m.w)


def _in_place(m: Any, t: Inputs) -> Tensor:
    x = F.linear(t["x"], m.w).abs() + 1
    y = x[:, 2:5]
    y.digamma_()
    return F.linear(x, m.w)


def _numbers(m: Any, t: Inputs) -> Tensor:
    """Which row of a table, by an operation on the device's values."""
    place = torch.kthvalue(F.linear(t["x"], m.w), 3, -1)
    return F.embedding(place.indices, m.w) * place.values[..., None]


def _past(m: Any, t: Inputs) -> Tensor:
    """Which row of a table, found before an island and read after it."""
    x = F.linear(t["x"], m.w)
    place = x.argmax(-1)
    return F.embedding(place, m.w) * odd(x)


def _host(m: Any, t: Inputs) -> Tensor:
    return F.linear(odd(t["x"] * t["t"][:, None, None]), m.w) * t["t"].cos()[:, None, None]


CASES = (
    Case("between", lambda m, t: F.linear(odd(F.linear(t["x"], m.w)), m.w), 2),
    Case("first", lambda m, t: F.linear(odd(t["x"]), m.w) + t["x"], 1),
    Case("last", lambda m, t: odd(F.linear(t["x"], m.w)), 2),
    Case("two in a row", lambda m, t: F.linear(odd(odd(F.linear(t["x"], m.w))), m.w), 2, 2),
    Case("skip", _skip, 2),
    Case("twice", _twice, 3, 2),
    Case("into a window", _written, 2),
    Case("in place", _in_place, 2),
    Case("row numbers", _numbers, 2),
    Case("numbers past it", _past, 2),
    Case("host inputs", _host, 2),
    Case("of a weight", lambda m, t: t["x"] + odd(m.w)[0], 2),
    Case("several outputs", lambda m, t: (F.silu(t["x"]), odd(t["x"] * 2), t["y"] + 1), 2),
)


def _inputs() -> Inputs:
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(2, 6, 32, generator=generator) for _ in range(2))
    return {"x": x, "y": y, "t": torch.tensor([0.5, 2.0])}


def _model(device: str, runner: Runner, real: Parameters, options: LowerOptions | None = None) -> GgmlModel:
    arrays = {name: p.numpy() for name, p in real.named_parameters()}
    return GgmlModel(Parameters({"w": (32, 32)}, "meta"), WeightSet("a case", {}, (), arrays), device, options, runner)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_island(case: Case, place: Place, runner: Runner) -> None:
    """As torch computes the whole, called twice."""
    real = Parameters({"w": (32, 32)}, "cpu")
    model = _model(place.device, runner, real)
    (*_, last), parts = model.lowered(0, case.function, _inputs()).parts, 0
    for part in model.lowered(0, case.function, _inputs()).parts:
        parts += 1
        assert part.rest is None or part.kept
    islands = sum(len(part.islands) for part in model.lowered(0, case.function, _inputs()).parts)
    assert (parts, islands, last.rest) == (case.programs, case.islands, None)
    wanted = case.function(real, _inputs())
    for _ in range(2):
        results = model.run(0, case.function, _inputs())
        for result, expected in zip(results, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            assert result.shape == expected.shape
            assert float((result - expected).norm() / expected.norm()) <= place.exact
    assert len(model.island_seconds) >= 1
    model.unload()


def _changed(x: Tensor, y: Tensor) -> None:
    """Writes into x, by a value of its own."""
    x[:, 1:3] = odd(x[:, 1:3]) + y[:, 1:3] * x.abs().max().item()


@pytest.mark.parametrize("inference", [False, True])
def test_what_one_step_writes_into_its_arguments_counts(place: Place, runner: Runner, inference: bool) -> None:
    """Also of a copy of an input, whose content the host has under another name; nodes run in inference mode."""
    real = Parameters({"w": (32, 32)}, "cpu")
    model = _model(place.device, runner, real)

    def function(step: Callable[..., Any], m: Any, t: Inputs) -> Tensor:
        x = F.linear(t["x"], m.w)
        step(x, t["y"].clone())
        return F.linear(x, m.w)

    traced = partial(function, lambda *given: as_one_step("a step", _changed, given))
    with torch.inference_mode(inference):
        (result,) = model.run(0, traced, _inputs())
        expected = function(_changed, real, _inputs())
    assert float((result - expected).norm() / expected.norm()) <= place.exact
    model.unload()


def test_without_islands_it_is_an_error(runner: Runner) -> None:
    model = _model("CPU", runner, Parameters({"w": (32, 32)}, "cpu"), LowerOptions(islands=False))
    with pytest.raises(LowerError, match="special_bessel_j0"):
        model.lowered(0, CASES[0].function, _inputs())


def test_an_island_is_planned(place: Place, runner: Runner) -> None:
    """Each of the programs is a step of the plan, and the plan's peak is what is taken."""
    real = Parameters({"w": (32, 32)}, "cpu")
    model, case = _model(place.device, runner, real), CASES[5]
    machine = Machine(tuple(runner.devices()), {device.name: 1 << 40 for device in runner.devices()})
    recorder = Recorder(runner, machine)
    dry = DryRunModel(
        Parameters({"w": (32, 32)}, "meta"), model.weights, Placement(place.device), LowerOptions(), recorder
    )
    dry.load()
    (zeros,) = dry.run(0, case.function, _inputs())
    assert zeros.shape == (2, 6, 32)
    assert [step.do for step, _ in recorder.steps] == ["load", "run", "run", "run"]
    plan = recorder.plan()
    assert plan is not None
    model.load()
    peaks = dict(model.peaks)
    model.run(0, case.function, _inputs())
    taken = {name: max(nbytes, model.peaks.get(name, 0)) for name, nbytes in peaks.items()}
    assert plan.peaks[place.device] == taken[place.device]
    model.unload()
