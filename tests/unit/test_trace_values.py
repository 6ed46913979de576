"""Tracing code that asks for values, buffers, and modules that keep tensors."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from native.client import Runner
from native.engines.ggml import GgmlModel
from native.lower import LowerError, WeightType, lower
from native.trace import Trace, hold, trace
from native.weights import WeightSet

Inputs = dict[str, Tensor]


@pytest.fixture
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


class Grid(torch.nn.Module):
    """Code as vision encoders have it: it asks for the size of a picture, but not for the timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)

    def forward(self, x: Tensor, grid: Tensor, timestep: Tensor) -> Tensor:
        height, width = int(grid.max()), (grid * 2)[0].tolist()[1]
        return self.layer(x).reshape(height, width, 8).mean(1) * timestep


def _grid_inputs(height: int, width: int, timestep: float) -> Inputs:
    grid = torch.tensor([[height, width // 2]])
    return {"x": torch.randn(height * width, 8), "grid": grid, "timestep": torch.tensor([timestep])}


def _model(module: torch.nn.Module, runner: Any = None) -> GgmlModel:
    arrays = {name: p.detach().numpy() for name, p in module.state_dict().items() if p.is_floating_point()}
    return GgmlModel(module, WeightSet("a small model", {}, (), arrays), "CPU", None, runner)


def _call_grid(m: Any, t: Inputs) -> Tensor:
    result: Tensor = m(t["x"], t["grid"], t["timestep"])
    return result


def test_values_asked_for_are_part_of_what_a_program_is_for(runner: Runner) -> None:
    """Another grid is another program, another timestep is not; each is as torch has it."""
    module = Grid().requires_grad_(False)
    model = _model(module, runner)
    first = model.lowered("key", _call_grid, _grid_inputs(6, 4, 1.0))
    assert model.lowered("key", _call_grid, _grid_inputs(6, 4, 0.5)) is first
    assert model.lowered("key", _call_grid, _grid_inputs(12, 2, 0.5)) is not first
    assert model.lowered("key", _call_grid, _grid_inputs(6, 4, 0.1)) is first
    for size in ((6, 4), (12, 2)):
        inputs = _grid_inputs(*size, 0.5)
        (result,) = model.run("key", _call_grid, inputs)
        assert torch.allclose(result, _call_grid(module, inputs), atol=1e-6)


def test_the_answer_counts_and_not_the_value_behind_it() -> None:
    """A question about the timestep makes no trace a step where its answer stays."""

    def above(m: Any, t: Inputs) -> Tensor:
        return t["x"] * 2 if (t["timestep"] > 0.5).all() else t["x"] * 3

    model = _model(Grid())
    x = torch.zeros(2, 8)
    programs = [model.lowered(0, above, {"x": x, "timestep": torch.tensor([step])}) for step in (0.9, 0.7, 0.4, 0.6)]
    assert programs[0] is programs[1] is programs[3]
    assert programs[2] is not programs[0]


def test_few_traces_are_kept() -> None:
    """However many answers a question has."""
    model = _model(Grid())
    for step in range(40):
        model.lowered(0, _branch_by_value, {"x": torch.zeros(2, 8), "timestep": torch.tensor([float(step)])})
    (kept,) = model._programs._values._values.values()
    assert len(kept) <= 16


def _branch_by_value(m: Any, t: Inputs) -> Tensor:
    return t["x"] * t["timestep"].item()


@pytest.mark.parametrize(
    "question",
    [
        lambda mask: mask.nonzero()[:, 0],
        lambda mask: torch.where(mask)[0],
        lambda mask: torch.bincount(mask.long()).cumsum(0),
        lambda mask: torch.arange(mask.shape[0])[mask],
        lambda mask: torch.tensor(mask.tolist()).nonzero(),
        lambda mask: torch.arange(mask.shape[0]).masked_select(mask),
        lambda mask: torch.from_numpy(mask.cpu().numpy()).nonzero(),
        lambda mask: torch.arange(3) if torch.equal(mask, torch.zeros_like(mask)) else torch.arange(4),
        lambda mask: torch.unique(mask),
        lambda mask: torch.repeat_interleave(torch.arange(mask.shape[0]), mask.long()),
    ],
)  # fmt: skip
def test_questions(question: Any) -> None:
    """Each is answered from the input, so that the shapes that follow are those of a real run."""
    mask = torch.tensor([True, False, True, True, False])
    traced = trace("a mask", Grid(), lambda m, t: question(t["mask"]) * 1.0, {"mask": mask})
    expected = question(mask)
    assert traced.outputs[0].shape == expected.shape
    assert hold(traced.questions, {"mask": mask})
    assert not hold(traced.questions, {"mask": torch.zeros(5, dtype=torch.bool)})


class Buffers(torch.nn.Module):
    """A buffer that files have, one that they have not, and one of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([2.0, 3.0]))
        self.register_buffer("table", torch.tensor([5.0, 7.0, 11.0]), persistent=False)
        self.register_buffer("index", torch.tensor([2, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + 10.0 ** self.table[self.index]


def _buffers(module: torch.nn.Module) -> Trace:
    return trace("buffers", module, lambda m, t: m(t["x"]), {"x": torch.zeros(3, 2)}, ["scale", "index"])


def test_buffers_are_constants_unless_the_weights_have_them() -> None:
    """Whole numbers are constants even so: no weight holds them."""
    traced = _buffers(Buffers())
    assert list(traced.weights) == ["scale"]
    values = [value.tolist() for value in traced.constants.values()]
    assert values == [[5.0, 7.0, 11.0], [2, 0]]


def test_a_buffer_without_values_that_no_weights_have_is_named() -> None:
    """As where a loader built the module on the meta device."""
    module = Buffers().to("meta")
    traced = trace("buffers", module, lambda m, t: t["x"] * m.scale * m.table[:2], {"x": torch.zeros(3, 2)})
    with pytest.raises(LowerError, match="lack table, and the module has no values for it"):
        lower(traced, {"scale": WeightType("F32", (2,))})


@functools.lru_cache(maxsize=4)
def _cached_table(width: int) -> Tensor:
    return torch.arange(width) * 2.0


class Keeper(torch.nn.Module):
    """A module that keeps tensors in every way that ComfyUI's do, and moves its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 8)
        self.cos: Tensor | None = None
        self.entries: list[dict[str, Any]] = []
        self.by_size: dict[int, list[Tensor]] = {1: []}
        self.register_buffer("angles", torch.zeros(1), persistent=False)

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def positions(self, width: int) -> Tensor:
        return torch.linspace(0, 1, width)

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        if self.cos is None:
            self.cos = torch.arange(width).cos()
            self.angles = torch.ones(width)
            self.entries.append({"x": x})
            self.by_size[1].append(x)
        known = self.entries[0]["x"] + self.by_size[1][0]
        table = _cached_table(width) + self.positions(width) + self.cos + self.angles
        result: Tensor = self.layer.to(x.device, torch.float64)(x) + known * table
        return result


def test_what_a_module_keeps_does_not_outlast_a_trace() -> None:
    """The second trace is as the first, and the module as it was."""
    module = Keeper()
    before, caches = dict(vars(module)), (_cached_table, Keeper.positions)
    names = []
    for _ in range(2):
        traced = trace("a keeper", module, lambda m, t: m(t["x"]), {"x": torch.zeros(2, 8)}, ["layer.weight"])
        lowered = lower(traced, {name: WeightType("F32", tuple(p.shape)) for name, p in module.named_parameters()})
        names.append({tensor.name for tensor in lowered.program.tensors if tensor.kind == "weight"})
        assert vars(module) == before
        assert (module.cos, module.entries, module.by_size) == (None, [], {1: []})
        assert [cache.cache_info().currsize for cache in caches] == [0, 0]  # type: ignore[attr-defined]
    assert names[0] == names[1] == {"layer.weight", "layer.bias"}


def test_real_tensors_that_a_module_keeps_are_constants() -> None:
    """As the caches of a module that torch itself has run."""
    module = Keeper()
    module.cos = torch.full((8,), 0.25)
    module.entries, module.by_size = [{"x": torch.ones(8)}], {1: [torch.ones(8)]}
    module(torch.zeros(2, 8, dtype=torch.float64))
    module.float()
    traced = trace("a keeper", module, lambda m, t: m(t["x"]), {"x": torch.zeros(2, 8)})
    assert any(np.array_equal(value, np.full(8, 0.25, np.float32)) for value in traced.constants.values())
    _cached_table.cache_clear()
    Keeper.positions.cache_clear()
