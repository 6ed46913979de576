"""Functions of other nodes: where they come from, what they keep and what they read."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from native.trace import as_one_step
from tests.pack import part

foreign = part("nodes.components.foreign_functions")


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
        before = foreign.kept_by(function)
        assert foreign.kept_by(function) == before
        with foreign.restored(function):
            if call:
                function(1, {})
            else:
                function.settings["scale"] = 2.0
            assert foreign.kept_by(function) != before
        assert foreign.kept_by(function) == before
    tensor = torch.ones(2)
    held = partial(lambda x, y: x, tensor)
    before = foreign.kept_by(held)
    tensor += 1
    assert foreign.kept_by(held) != before


def test_names_weights_and_options() -> None:
    assert foreign.name_of(counting()) == "counting.patch of test_foreign_functions"
    assert foreign.name_of(Patch().method) == "Patch.method of test_foreign_functions"
    assert foreign.name_of(partial(Patch())) == "Patch of test_foreign_functions"
    assert foreign.has_weights(Patch(torch.nn.Linear(2, 2)))
    assert not foreign.has_weights(Patch())
    assert foreign.reads(counting(), "cond_or_uncond")
    assert foreign.reads(Patch().method, "sigmas")
    assert not foreign.reads(Patch(), "cond_or_uncond")


def test_one_step_is_of_a_trace() -> None:
    with pytest.raises(RuntimeError, match="outside a trace"):
        as_one_step("a function", lambda x: x, (torch.ones(1),))
