"""Rows that are there several times are multiplied once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from native.client import Runner
from native.engines.ggml import GgmlModel
from native.lower import LowerOptions
from native.weights import WeightSet

ROWS, WIDTH = 5, 8
Function = Callable[["Layers", Tensor], Tensor]


class Layers(torch.nn.Module):
    """Two matrices."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second = torch.nn.Linear(WIDTH, 24), torch.nn.Linear(24, 6)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


def _forward(m: Layers, rows: Tensor) -> Tensor:
    hidden = m.first(rows)
    return m.second(F.silu(hidden) * (hidden * 0.5))


_NUMBERS = torch.tensor([4, 0, 0, 3, 4, 1, 1, 2])
CASES: dict[str, tuple[Function, set[int]]] = {  # and the rows that are multiplied
    "picked": (lambda m, x: _forward(m, x[_NUMBERS]), {ROWS}),
    "picked by the device": (lambda m, x: _forward(m, x[(x[:, 0].argsort()[_NUMBERS])]), {ROWS}),
    "repeated": (lambda m, x: _forward(m, x.repeat_interleave(3, 0)), {ROWS}),
    "scaled before": (lambda m, x: _forward(m, x[_NUMBERS] * 2), {ROWS}),
    "fewer": (lambda m, x: _forward(m, x[_NUMBERS[:3]]), {3}),
    "others beside": (lambda m, x: _forward(m, x[_NUMBERS] + x[_NUMBERS.flip(0)]), {len(_NUMBERS)}),
    "weighted between": (lambda m, x: m.second(m.first(x[_NUMBERS]) * x[_NUMBERS.flip(0), :1]), {ROWS, len(_NUMBERS)}),
    "in other rows": (lambda m, x: F.linear(x[_NUMBERS].reshape(16, 4), m.first.weight[:, :4]), {16}),
    "across": (lambda m, x: m.first(x[_NUMBERS]).t().relu() * 2, {ROWS}),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_are_multiplied_once(runner: Runner, name: str) -> None:
    """The result is that of torch, and the products have as many columns as there are different rows."""
    function, columns = CASES[name]
    module = Layers().requires_grad_(False)
    arrays = {key: p.detach().numpy() for key, p in module.state_dict().items()}
    weights = WeightSet("a small model", {}, (), arrays)
    model = GgmlModel(module, weights, "CPU", LowerOptions(islands=False), runner)
    x = torch.randn(ROWS, WIDTH)
    (result,) = model.run(name, lambda m, t: function(m, t["x"]), {"x": x})
    assert torch.allclose(result, function(module, x), atol=1e-5)
    lowered = model.lowered(name, lambda m, t: function(m, t["x"]), {"x": x})
    assert {tensor.ne[1] for tensor in lowered.program.tensors if tensor.name == "mul_mat"} == columns
