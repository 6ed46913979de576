"""Tracing: what it records, what it refuses, and that nobody else notices."""

from __future__ import annotations

import inspect
import re
import threading

import pytest
import torch
from torch.nn import functional as F

from native.trace import OfPart, Trace, TraceError, trace

SEEN_BY_ALL = (
    (torch.nn.Module, "__call__"), (torch.nn.Module, "__getattr__"), (F, "linear"), (F, "scaled_dot_product_attention"),
    (torch, "rms_norm"), (torch, "matmul"),
)  # fmt: skip


class Block(torch.nn.Module):
    """A little of everything: a layer, a constant, a shape-dependent table."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(8, device=device)
        self.layer = torch.nn.Linear(8, 8, device=device)
        self.angles = torch.linspace(0, 1, 8)  # no parameter, no buffer: a real tensor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.norm(x)) * self.angles + torch.arange(x.shape[1])[:, None]


def _traced(shape: tuple[int, ...] = (1, 4, 8)) -> Trace:
    return trace("a block", Block("meta"), lambda m, t: m(t["x"]), {"x": torch.zeros(shape)})


def test_steps_name_the_module_they_come_from() -> None:
    """And layers are one step each."""
    steps = {step.name: step.module_path for step in _traced().steps}
    assert steps["linear"] == "layer"
    assert steps["aten.native_layer_norm.default"] == "norm"


def test_a_part_is_traced_alone() -> None:
    """Its weights keep their names in the whole, and the rest of the module is not looked at."""
    whole = torch.nn.ModuleDict({"one": Block("meta"), "two": Block("meta")})
    inputs = {"x": torch.zeros(1, 4, 8)}
    traced, by_whole = (trace("a part", whole, each, inputs) for each in (OfPart("two", _second), _second))
    assert set(traced.weights) == {f"two.{name}" for name in ("norm.weight", "norm.bias", "layer.weight", "layer.bias")}
    assert set(traced.weights) < set(by_whole.weights)
    assert [(step.name, step.module_path) for step in traced.steps] == [
        (step.name, step.module_path) for step in by_whole.steps
    ]


def _second(module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    result: torch.Tensor = module["two"](tensors["x"])  # type: ignore[index]
    return result


def test_views_are_no_steps() -> None:
    """They are in the windows of the steps that use them."""
    traced = trace("views", Block("meta"), lambda m, t: t["x"].transpose(1, 2)[:, 2:4] * 2, {"x": torch.zeros(1, 4, 8)})
    assert [step.name for step in traced.steps] == ["aten.mul.Tensor"]
    assert traced.steps[0].args[0].shape == (1, 2, 4)
    assert traced.steps[0].args[0].offset == 2


def test_constants_keep_their_values() -> None:
    """A tensor that is neither parameter nor buffer is known when the trace is lowered."""
    (angles,) = _traced().constants.values()
    assert torch.equal(angles, torch.linspace(0, 1, 8))


def test_code_that_asks_for_a_value_of_the_model_is_refused_with_its_place() -> None:
    """Only a real run knows which branch is taken; the message has the model, its part, the file and the line."""

    class Branch(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if self.layer(x).sum() > 0 else -x

    branch = torch.nn.Sequential(torch.nn.Identity(), Branch("meta"))
    line = inspect.getsourcelines(Branch.forward)[1] + 1
    place = re.escape(f"{__file__}:{line}")
    with pytest.raises(TraceError, match=f"^the brancher cannot be traced: 1 asks for a value .*, at {place}"):
        trace("the brancher", branch, lambda m, t: m(t["x"]), {"x": torch.zeros(1, 4, 8)})


def test_another_thread_sees_nothing() -> None:
    """While a module is traced, torch computes as ever elsewhere, and nothing that all share is swapped."""
    before = [getattr(owner, name) for owner, name in SEEN_BY_ALL]
    model, x = Block("cpu"), torch.randn(2, 4, 8)
    with torch.no_grad():
        expected = model(x)
    inside, done, faults = threading.Event(), threading.Event(), []

    def elsewhere() -> None:
        inside.wait(10)
        with torch.no_grad():
            result = model(x)
        if type(result) is not torch.Tensor or not torch.equal(result, expected):
            faults.append(result)
        if [getattr(owner, name) for owner, name in SEEN_BY_ALL] != before:
            faults.append("something that all share was swapped")
        done.set()

    def slow(m: Block, t: dict[str, torch.Tensor]) -> torch.Tensor:
        y = m(t["x"])
        inside.set()
        assert done.wait(10)
        return m(y)

    other = threading.Thread(target=elsewhere)
    other.start()
    traced = trace("a block", Block("meta"), slow, {"x": torch.zeros(1, 4, 8)})
    other.join()
    assert not faults
    assert [step.name for step in traced.steps].count("linear") == 2


def test_module_is_left_as_it_was() -> None:
    """No hooks, no fake parameters."""
    module = Block("meta")
    trace("a block", module, lambda m, t: m(t["x"]), {"x": torch.zeros(1, 4, 8)})
    assert all(p.device.type == "meta" for p in module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_tensor_of_inference_mode_may_be_as_it_is_to_be() -> None:
    """As a picture that a node of ComfyUI made, which `float` gives back as it is."""
    with torch.inference_mode():
        picture = torch.ones(1, 4, 8)
    traced = trace("a block", Block("meta"), lambda m, t: m(t["x"]) * picture[0].unsqueeze(0).float(), {
        "x": torch.zeros(1, 4, 8)
    })  # fmt: skip
    assert [step.name for step in traced.steps][-1] == "aten.mul.Tensor"


def test_inference_mode_changes_nothing() -> None:
    """ComfyUI runs nodes in it."""
    with torch.inference_mode():
        inside = _traced()
    assert [step.name for step in inside.steps] == [step.name for step in _traced().steps]
