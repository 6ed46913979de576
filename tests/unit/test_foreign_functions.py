"""Functions of other nodes: where they come from, what they keep and what they read."""

from __future__ import annotations

import types
from functools import partial
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from native.trace import as_one_step
from tests.pack import part

foreign = part("nodes.components.foreign_functions")
kept_values = part("nodes.components.kept_values")


def counting() -> Any:
    count, seen = 0, []

    def patch(x: Any, options: dict[str, Any]) -> Any:
        nonlocal count
        count += 1
        seen.append(options.get("cond_or_uncond"))
        return x

    return patch


class Patch:
    """A callable object with a module of its own or none."""

    def __init__(self, model: torch.nn.Module | None = None) -> None:
        self.model = model
        self.settings = {"scale": 1.0}

    def __call__(self, x: Any, options: dict[str, Any]) -> Any:
        return x * self.settings["scale"]

    def method(self, x: Any, options: dict[str, Any]) -> Any:
        return x * len(options["sigmas"])


def test_every_function_is_found_once() -> None:
    first, second, third = counting(), Patch(), counting()
    options = {
        "patches": {"attn1_patch": [first, second], "middle_patch": []},
        "patches_replace": {"attn1": {("middle", 0): second.method}, "dit": {("double_block", 0): first}},
        "optimized_attention_override": third,
        "sigmas": torch.ones(1),
    }
    assert foreign.functions_in(options) == [first, second, second.method, third]
    assert foreign.around_blocks(options) == [first]
    assert foreign.functions_in({}) == []


def test_what_a_function_keeps_is_noticed_and_put_back() -> None:
    for function, call in ((counting(), 1), (Patch(), 0)):
        before = kept_values.kept_by(function)
        assert kept_values.kept_by(function) == before
        with kept_values.traced([function]):
            if call:
                function(1, {})
            else:
                function.settings["scale"] = 2.0
            assert kept_values.kept_by(function) != before
        assert kept_values.kept_by(function) == before
    tensor = torch.ones(2)
    held = partial(lambda x, y: x, tensor)
    before = kept_values.kept_by(held)
    tensor += 1
    assert kept_values.kept_by(held) != before


class Recorder:
    """Keeps a tensor in an attribute and another in a dictionary, and may read the first again."""

    def __init__(self, reads: bool) -> None:
        self.reads, self.found = reads, None
        self.by_block: dict[int, Any] = {}

    def __call__(self, x: Any) -> Any:
        if self.reads and self.found is not None:
            x = x + self.found
        self.found, self.by_block[0] = x * 2, (None, x * 3)
        return x


def test_what_a_trace_leaves_is_computed_and_put_where_it_was_kept() -> None:
    for reads in (False, True):
        recorder = Recorder(reads)
        with FakeTensorMode(), kept_values.traced([recorder]) as kept:
            recorder(torch.ones(2))
            places, tensors = kept.left()
        assert (recorder.found, recorder.by_block, len(tensors)) == (None, {}, 2)
        results = [torch.full((2,), 3.0), torch.full((2,), 2.0)]
        kept_values.leave([recorder], places, lambda dtype, left=results: left.pop())
        assert [recorder.found.tolist(), recorder.by_block[0][1].tolist()] == [[2, 2], [3, 3]]
        assert kept_values.holding_left([recorder]) == [recorder]
        before = kept_values.kept_by(recorder)
        with FakeTensorMode(), kept_values.traced([recorder]) as kept:
            if reads:
                with pytest.raises(kept_values.ReadsKept):
                    recorder(torch.ones(2))
            else:
                recorder(torch.ones(2))
                assert kept.left()[0] == places
        assert kept_values.kept_by(recorder) == before


def test_what_is_no_tensor_of_the_trace_is_not_left() -> None:
    function, shared = counting(), Recorder(False)
    with FakeTensorMode(), kept_values.traced([shared, function]) as kept:
        shared(torch.ones(2))
        function(1, {})
        with pytest.raises(kept_values.KeepsValues) as raised:
            kept.left()
    assert set(raised.value.functions) == {function}


def test_names_weights_and_options() -> None:
    assert foreign.name_of(counting()) == "counting.patch of test_foreign_functions"
    assert foreign.name_of(Patch().method) == "Patch.method of test_foreign_functions"
    assert foreign.name_of(partial(Patch())) == "Patch of test_foreign_functions"
    layer = torch.nn.Linear(2, 2)
    model = types.SimpleNamespace(model=layer, model_options={})
    assert kept_values.modules_of(Patch(layer)) == [layer]
    assert kept_values.modules_of(Patch(model)) == [layer]
    assert kept_values.modules_of(Patch()) == []
    assert kept_values.modules_of(types.SimpleNamespace(models=lambda: [model])) == [layer]  # as ComfyUI is told it
    assert foreign.reads(counting(), "cond_or_uncond")
    assert foreign.reads(Patch().method, "sigmas")
    assert not foreign.reads(Patch(), "cond_or_uncond")


def test_one_step_is_of_a_trace() -> None:
    with pytest.raises(RuntimeError, match="outside a trace"):
        as_one_step("a function", lambda x: x, (torch.ones(1),))
