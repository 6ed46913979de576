"""Tracing code that lets the device choose rows: experts of a mixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from native.client import Runner
from native.engines.ggml import GgmlModel
from native.lower import LowerOptions, WeightType, lower
from native.trace import TraceError, trace
from native.trace.graph import Window
from native.trace.values import HostStorages
from native.weights import WeightSet

EXPERTS, CHOSEN, WIDTH = 3, 2, 8


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    runner = Runner()
    yield runner
    runner.close()


class Experts(torch.nn.Module):
    """A gate and the layers that it chooses from."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.gate = torch.nn.Linear(WIDTH, EXPERTS)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))


Function = Callable[[Any, Tensor], Tensor]


def two_by_mask(m: Any, x: Tensor) -> Tensor:
    """One expert for some rows, another for the others."""
    some = m.gate(x)[:, 0] > 0
    y = torch.empty_like(x)
    y[some] = m.experts[0](x[some])
    y[~some] = torch.relu(m.experts[1](x[~some]) * 2)[:, :WIDTH]
    return y


def by_masks(m: Any, x: Tensor) -> Tensor:
    """As HiDream has it."""
    weight, chosen = torch.topk(m.gate(x).softmax(-1), CHOSEN, dim=-1, sorted=False)
    rows, flat = x.repeat_interleave(CHOSEN, dim=0), chosen.view(-1)
    y = torch.empty_like(rows)
    for number, expert in enumerate(m.experts):
        y[flat == number] = expert(rows[flat == number])
    return (y.view(*weight.shape, -1) * weight.unsqueeze(-1)).sum(1)


def by_slices(m: Any, x: Tensor) -> Tensor:
    """As Hunyuan3D 2.1 has it."""
    weight, chosen = torch.topk(m.gate(x).softmax(-1), CHOSEN, dim=-1, sorted=False)
    flat, weights = chosen.view(-1), weight.view(-1, 1)
    y = torch.zeros_like(x)
    order = flat.argsort()
    ends = flat.bincount().cumsum(0)
    tokens = order // CHOSEN
    for number, end in enumerate(ends):
        start = 0 if number == 0 else ends[number - 1]
        if start == end:
            continue
        own = tokens[start:end]
        out = m.experts[number](x[own])
        out.mul_(weights[order[start:end]])
        y.index_add_(0, own, out)
    return y


def by_hits(m: Any, x: Tensor) -> Tensor:
    """As GPT-OSS has it."""
    best, chosen = torch.topk(m.gate(x), CHOSEN, dim=-1)
    weight = best.softmax(-1)
    mask = torch.nn.functional.one_hot(chosen, num_classes=EXPERTS).permute(2, 1, 0)
    pairs = torch.zeros(len(x) * CHOSEN, WIDTH)
    for hit in (mask.sum(dim=(-1, -2)) > 0).nonzero():
        number = int(hit.item())
        place, token = torch.where(mask[number])
        out = m.experts[number](x[token]) * weight[token, place, None]
        pairs[token * CHOSEN + place] = out
    return pairs.view(len(x), CHOSEN, WIDTH).sum(1)


def by_hits_added(m: Any, x: Tensor) -> Tensor:
    """The same, added up by tokens."""
    best, chosen = torch.topk(m.gate(x), CHOSEN, dim=-1)
    mask = torch.nn.functional.one_hot(chosen, num_classes=EXPERTS).permute(2, 1, 0)
    y = torch.zeros_like(x)
    for hit in (mask.sum(dim=(-1, -2)) > 0).nonzero():
        number = int(hit.item())
        place, token = torch.where(mask[number])
        y.index_add_(0, token, m.experts[number](x[token]) * best[token, place, None])
    return y


def _only_some(m: Any, x: Tensor) -> Tensor:
    """Rows that no one writes stay."""
    y = x.clone()
    some = m.gate(x)[:, 0] > 0
    y[some] = 3.0
    return y


def last_hit(m: Any, x: Tensor) -> Tensor:
    """The pass of a row writes only where the row is there."""
    y = x.clone()
    hits = (m.gate(x)[:, 0] > 0).nonzero()
    for hit in hits:
        number = int(hit)
        others = m.gate(x)[:, 1] > 0
        y[others] = x[others] * (number + 2)
    return y


def last_end(m: Any, x: Tensor) -> Tensor:
    """A pass writes nothing after it went on to the next one."""
    y = x.clone()
    ends = m.gate(x).argmax(-1).bincount().cumsum(0)
    for end in ends:
        if end > 5:
            continue
        others = m.gate(x)[:, 1] > 0
        y[others] = x[others] * (end + 2)
    return y


def _bias(chosen: str) -> Tensor:
    """Of the gate, so that it chooses all rows for the first expert, none, as its weights say, or never the last."""
    first, last = {"all": (99.0, 0.0), "none": (-99.0, 0.0), "some": (0.0, 0.0), "not the last": (0.0, -99.0)}[chosen]
    return torch.tensor((first, 0.0, last))


@pytest.mark.parametrize("chosen", ["all", "none", "some", "not the last"])
@pytest.mark.parametrize(
    "function", [two_by_mask, by_masks, by_slices, by_hits, by_hits_added, last_hit, last_end, _only_some]
)
def test_chosen_rows(runner: Runner, function: Function, chosen: str) -> None:
    """Rows come out as torch has them, whichever the device chooses."""
    module = Experts().requires_grad_(False)
    module.gate.bias.copy_(_bias(chosen))
    arrays = {name: p.detach().numpy() for name, p in module.state_dict().items()}
    weights = WeightSet("a small model", {}, (), arrays)
    model = GgmlModel(module, weights, "CPU", LowerOptions(islands=False), runner)
    for rows in (6, 11):
        x = torch.randn(rows, WIDTH)
        (result,) = model.run((function.__name__, rows), lambda m, t: function(m, t["x"]), {"x": x})
        assert torch.allclose(result, function(module, x), atol=1e-5)


def test_what_is_empty_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty tensor that rows are put into is one number: at 1024x1024 HiDream has 88 MB of it in each layer."""
    made: list[int] = []
    window = HostStorages.window

    def watched(self: HostStorages, each: Window) -> Tensor:
        made.append(each.numel)
        return window(self, each)

    monkeypatch.setattr(HostStorages, "window", watched)
    x = torch.randn(20_000, WIDTH)
    module = Experts()
    types = {name: WeightType("F32", tuple(p.shape)) for name, p in module.named_parameters()}
    program = lower(trace("toy", module, lambda m, t: by_masks(m, t["x"]), {"x": x}), types).program
    assert sum(array.nbytes for array in program.constants.values()) < CHOSEN * x.nbytes / 4
    assert max(made) < CHOSEN * x.numel()


def _some(m: Any, x: Tensor) -> Tensor:
    rows: Tensor = x[m.gate(x)[:, 0] > 0]
    return rows


def _written(m: Any, x: Tensor, rows: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[m.gate(x)[:, 0] > 0] = rows
    return y


def _hits(m: Any, x: Tensor) -> Tensor:
    return (m.gate(x)[:, 0] > 0).nonzero()


def _count(m: Any, x: Tensor) -> Tensor:
    count = 0
    for _hit in (m.gate(x)[:, 0] > 0).nonzero():
        count += 1
    return x * count


def _stops(m: Any, x: Tensor) -> Tensor:
    hits = _hits(m, x)
    for hit in hits:
        if int(hit) == 2:
            break
        x = x * 2
    return x


def _carries(m: Any, x: Tensor) -> Tensor:
    y = x
    hits = _hits(m, x)
    for hit in hits:
        y = y * int(hit)
    return x


def _names_after(m: Any, x: Tensor) -> Tensor:
    hits = _hits(m, x)
    for hit in hits:
        last = int(hit)
    return x * last


def _numbers(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    hits = _hits(m, x)
    for number, hit in enumerate(hits):
        y[hit] = x[number]
    return y


def _listed(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    hits = _hits(m, x)
    for hit in list(hits):
        y[int(hit)] = 1.0
    return y


def _appends(m: Any, x: Tensor) -> Tensor:
    found: list[int] = []
    hits = _hits(m, x)
    for hit in hits:
        found.append(int(hit))  # noqa: PERF401
    return x * len(found)


def _writes_one(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    hits = _hits(m, x)
    for hit in hits:
        y[int(hit)] = 1.0
    return y


def _kept_of_a_pass(m: Any, x: Tensor) -> Tensor:
    kept: dict[str, Tensor] = {"y": x}
    hits = _hits(m, x)
    for hit in hits:
        kept["y"] = kept["y"] + x[int(hit)]
    return kept["y"]


def _skips_more(m: Any, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    order = m.gate(x)[:, 0].argsort()
    ends = order.bincount().cumsum(0)
    for end in ends:
        if end == 3:
            y.add_(1.0)
            continue
        y.index_add_(0, order[:end], x[order[:end]])
    return y


def _first(m: Any, x: Tensor) -> Tensor:
    order = m.gate(x)[:, 0].argsort()
    return order[: order[0]]


def _stale(m: Any, x: Tensor) -> Tensor:
    x = x.clone()
    count = (m.gate(x)[:, 0] > 0).sum()
    some = x[:count]
    x.mul_(2)
    return torch.relu(some)


def _slice_written(m: Any, x: Tensor) -> Tensor:
    x = x.clone()
    x[: (m.gate(x)[:, 0] > 0).sum()] *= 2
    return x


def _where_computed(m: Any, x: Tensor) -> Tensor:
    places, hits = m.gate(x).argmax(-1), _hits(m, x)[:, 0]
    return torch.zeros_like(x).index_put((places[hits],), x[hits])


def _added(m: Any, x: Tensor) -> Tensor:
    places, hits = m.gate(x).argmax(-1), _hits(m, x)[:, 0]
    return torch.zeros_like(x).index_add(0, places[hits], x[hits])


REFUSED: dict[str, tuple[Function, str]] = {
    "sum": (lambda m, x: _some(m, x).sum(0), "mixes rows.*aten.sum"),
    "mean of all": (lambda m, x: _some(m, x).mean(), "mixes rows.*aten.mean"),
    "softmax": (lambda m, x: _written(m, x, _some(m, x).softmax(0)), "mixes rows.*softmax"),
    "sort": (lambda m, x: _written(m, x, _some(m, x).sort(0)[0]), "mixes rows.*aten.sort"),
    "running sum": (lambda m, x: _written(m, x, _some(m, x).cumsum(0)), "mixes rows.*aten.cumsum"),
    "flip": (lambda m, x: _written(m, x, _some(m, x).flip(0)), "mixes rows.*aten.flip"),
    "one of them": (lambda m, x: _some(m, x)[1], "how many"),
    "first ones": (lambda m, x: _some(m, x)[:2], "mixes rows.*aten.slice"),
    "reordered": (lambda m, x: _written(m, x, _some(m, x).t().contiguous().view(-1, WIDTH)), "mixes rows"),
    "flattened": (lambda m, x: _some(m, x).flatten().relu(), "mixes rows"),
    "joined": (lambda m, x: torch.cat([_some(m, x), x]), "mixes rows.*aten.cat"),
    "attention": (
        lambda m, x: torch.nn.functional.scaled_dot_product_attention(*[_some(m, x)[None]] * 3), "mixes rows",
    ),
    "products": (lambda m, x: _some(m, x).t() @ _some(m, x), "how many rows.*mm"),
    "their number": (lambda m, x: x * _some(m, x).shape[0], "mixes rows.*aten.mul"),
    "whether there are any": (lambda m, x: x if _some(m, x).shape[0] else x * 2, "how many"),
    "as many as all": (lambda m, x: _some(m, x) + x, "how many"),
    "length": (lambda m, x: x * len(_some(m, x)), "how many"),
    "numbered": (lambda m, x: _written(m, x, torch.arange(_some(m, x).shape[0])[:, None] * 1.0), "mixes.*arange"),
    "filled with their number": (lambda m, x: x + x.new_full((WIDTH,), _some(m, x).shape[0]), "mixes.*new_full"),
    "returned": (_some, "result"),
    "where the device says": (_where_computed, "places that the device computes"),
    "two choices": (lambda m, x: _written(m, x, _some(m, x)), "several choices"),
    "added in any order": (_added, "adds rows up at places"),
    "counted": (_count, "leave"),
    "stopped": (_stops, "leave"),
    "carried": (_carries, "leave"),
    "named after": (_names_after, "leave"),
    "appended": (_appends, "leave"),
    "kept": (_kept_of_a_pass, "may not be there"),
    "passes numbered": (_numbers, "how many"),
    "passes in a list": (_listed, "how many"),
    "written": (_writes_one, "what may not be written"),
    "skips more": (_skips_more, "asks for a value"),
    "a slice read later": (_stale, "written since"),
    "a slice written": (_slice_written, "writes into a slice"),
    "a slice returned": (_first, "result"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_rows_apart_cannot_say_is_refused(name: str) -> None:
    """With the model, the place and the line."""
    function, message = REFUSED[name]
    with pytest.raises(TraceError, match=message) as caught:
        trace("toy", Experts(), lambda m, t: function(m, t["x"]), {"x": torch.randn(6, WIDTH)})
    assert "toy cannot be traced" in str(caught.value)
    assert "test_trace_rows.py:" in str(caught.value) or name == "returned" or "result" in message
