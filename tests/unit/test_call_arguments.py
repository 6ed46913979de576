"""Calls taken apart into tensors and the rest, and put together again."""

from __future__ import annotations

import pytest
import torch

from tests.pack import part

arguments = part("nodes.components.call_arguments")


def test_round_trip_with_nested_values() -> None:
    x, added = torch.ones(1), torch.ones(2)
    call = {"x": x, "control": {"input": [added, None, added], "middle": []}, "method": "index", "pair": (1, x)}
    tensors: dict[str, torch.Tensor] = {}
    structure = arguments.part(call, "", tensors)
    assert tensors == {"x": x, "control.input.0": added}
    hash(structure)
    replaced = {name: tensor * 3 for name, tensor in tensors.items()}
    assert arguments.join(structure, replaced) == {
        "x": replaced["x"],
        "control": {"input": [replaced["control.input.0"], None, replaced["control.input.0"]], "middle": []},
        "method": "index",
        "pair": [1, replaced["x"]],
    }


def test_structure_tells_calls_apart() -> None:
    def structure(value: object) -> object:
        return arguments.part({"value": value}, "", {})

    x, y = torch.ones(1), torch.zeros(1)
    assert structure([x, x]) != structure([x, y])
    assert structure("index") != structure("offset")
    assert structure(None) != structure([])
    assert structure([x, y]) == structure([y, x])


def test_what_cannot_be_a_key_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"bytearray as options\.raw"):
        arguments.part({"options": {"raw": bytearray()}}, "", {})
