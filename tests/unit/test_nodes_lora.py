"""Weight patches: branches and weights equal what core makes of a weight; what does not fit is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.pack import part

lora = part("nodes.components.lora")
weights_module = part("native.weights")
WeightSet, array_digest = weights_module.WeightSet, weights_module.array_digest

import comfy.lora  # noqa: E402
from comfy.utils import swap_scale_shift  # noqa: E402
from comfy.weight_adapter import LoHaAdapter, LoRAAdapter  # noqa: E402

ROWS, COLUMNS = 12, 10
KEY = "diffusion_model.layer.weight"


class Core(torch.nn.Module):
    """A linear layer, a norm and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(COLUMNS, ROWS)
        self.norm = torch.nn.LayerNorm(COLUMNS)
        self.embedding = torch.nn.Embedding(ROWS, COLUMNS)


def adapter(rank: int, rows: int = ROWS, columns: int = COLUMNS, alpha: float | None = None, **extra: Any) -> Any:
    weights = [torch.randn(rows, rank), torch.randn(rank, columns), alpha, None, None, None]
    for index, value in extra.items():
        weights[int(index[1:])] = value
    return LoRAAdapter(set(), tuple(weights))


def check(patch: Any, name: str) -> None:
    core = Core()
    lora.check(f"diffusion_model.{name}", patch, core, name, core.get_parameter(name).shape)


def entry(adapter: Any, strength: float = 1.0, model: float = 1.0, offset: Any = None, function: Any = None) -> Any:
    return strength, adapter, model, offset, function


def added(branches: Any, shape: torch.Size) -> torch.Tensor:
    """The sum that branches add to a weight."""
    found = torch.zeros(shape)
    for each in branches:
        rows, columns = each.up.shape[0], each.down.shape[1]
        product = torch.from_numpy(each.up).float() @ torch.from_numpy(each.down).float()
        found[each.row : each.row + rows, each.column : each.column + columns] += product
    return found


def test_branches_equal_what_core_adds() -> None:
    patches = [
        entry(adapter(4), 0.7),
        entry(adapter(3, rows=5, alpha=6.0), -1.5, offset=(0, 2, 5)),
        entry(adapter(2, columns=4, alpha=1.0), 0.5, offset=(1, 6, 4)),
        entry(adapter(2, alpha=3.0), 0.3, function=swap_scale_shift),
    ]
    for patch in patches:
        check(patch, "layer.weight")
        assert lora.is_low_rank(patch, Core(), "layer.weight")
    weight = torch.randn(ROWS, COLUMNS)
    branches = lora.low_rank(patches, weight.shape)
    assert [(each.row, each.column, *each.up.shape, *each.down.shape) for each in branches] == [
        (0, 0, ROWS, 6, 6, COLUMNS),  # both that change all of it
        (2, 0, 5, 3, 3, COLUMNS),
        (0, 6, ROWS, 2, 2, 4),
    ]
    expected = comfy.lora.calculate_weight(patches, weight.clone(), KEY)
    torch.testing.assert_close(weight + added(branches, weight.shape), expected)


def test_branches_have_the_type_of_the_file_and_keep_what_is_small() -> None:
    """In F16 numbers below 6e-8 are zero: both matrices are brought to one size."""
    up, down = torch.randn(ROWS, 2).bfloat16() * 1e-7, torch.randn(2, COLUMNS).bfloat16()
    made = LoRAAdapter(set(), (up, down, 0.02, None, None, None))
    (branch,) = lora.low_rank([entry(made)], torch.Size((ROWS, COLUMNS)))
    assert {branch.up.dtype.name, branch.down.dtype.name} == {"float16"}
    expected = 0.01 * up.double() @ down.double()
    assert float((added([branch], expected.shape) - expected).norm() / expected.norm()) < 2e-3


def test_convolution_shaped_lora_is_flattened() -> None:
    made = LoRAAdapter(set(), (torch.randn(ROWS, 2, 1, 1), torch.randn(2, COLUMNS, 1, 1), None, None, None, None))
    check(entry(made), "layer.weight")
    assert lora.low_rank([entry(made)], torch.Size((ROWS, COLUMNS)))[0].down.shape == (2, COLUMNS)


@pytest.mark.parametrize(
    "patch",
    [
        entry(adapter(4), 0.0),
        entry(adapter(4, rows=20), 0.0),
        entry(LoHaAdapter(set(), ()), 0.0),
        entry(("diff", (torch.zeros(3),))),
        entry((torch.ones(3),), 0.0),
    ],
)
def test_what_changes_nothing_is_left_out(patch: Any) -> None:
    check(patch, "layer.weight")
    weights = WeightSet("core", {}, (), {"layer.weight": np.zeros((ROWS, COLUMNS), np.float32)})
    found = lora.patches_of({"layer.weight": (KEY, [patch])}, Core(), weights)
    assert not found.branches
    assert not found.weights


def test_a_zero_matrix_is_no_branch() -> None:
    made = LoRAAdapter(set(), (torch.zeros(ROWS, 2), torch.randn(2, COLUMNS), None, None, None, None))
    assert lora.low_rank([entry(made)], torch.Size((ROWS, COLUMNS))) == []


@pytest.mark.parametrize(
    ("name", "patches"),
    [
        ("layer.weight", [entry(adapter(2), model=0.5)]),
        ("layer.weight", [entry(adapter(2), function=torch.nn.Identity()), entry(adapter(3))]),
        ("layer.weight", [entry([(torch.ones(ROWS, COLUMNS), lambda x, **_: x)], 0.3, 0.7)]),
        ("layer.bias", [entry(("diff", (torch.randn(ROWS),)), 0.5)]),
        ("norm.weight", [entry(("set", (torch.randn(COLUMNS),)))]),
        ("embedding.weight", [entry(adapter(2), 0.5)]),
        ("layer.weight", [entry(adapter(2, _4=torch.ones(ROWS, 1)))]),
    ],
)
def test_weight_equals_what_core_makes_of_it(name: str, patches: list[Any]) -> None:
    core = Core()
    arrays = {key: value.detach().numpy().copy() for key, value in core.state_dict().items()}
    for patch in patches:
        check(patch, name)
    found = lora.patches_of({name: (KEY, patches)}, core, WeightSet("core", {}, (), arrays))
    assert not found.branches
    expected = comfy.lora.calculate_weight(patches, torch.from_numpy(arrays[name]).clone(), KEY)
    torch.testing.assert_close(torch.from_numpy(found.weights[name].compute()), expected)


def test_digest_tells_patches_apart() -> None:
    weights = WeightSet("core", {}, (), {"layer.bias": np.zeros(ROWS, np.float32)})

    def digest(value: float, strength: float) -> str:
        patch = entry(("diff", (torch.full((ROWS,), value),)), strength)
        return array_digest(lora.patches_of({"layer.bias": (KEY, [patch])}, Core(), weights).weights["layer.bias"])

    assert digest(1.0, 1.0) == digest(1.0, 1.0)
    assert len({digest(1.0, 1.0), digest(1.0, 0.5), digest(2.0, 1.0)}) == 3


@pytest.mark.parametrize(
    ("patch", "name", "message"),
    [
        (entry(("model_as_lora", (torch.ones(1),))), "layer.weight", "type model_as_lora"),
        (entry(LoHaAdapter(set(), (torch.ones(1),))), "layer.weight", "type loha and does not fit .* of 12 x 10"),
        (entry(("diff", (torch.ones(3),))), "norm.weight", "type diff and does not fit .* MISMATCH"),
        (entry(("set", (torch.ones(3),))), "layer.bias", "type set and does not fit"),
        (entry([(torch.ones(3, 4), lambda x, **_: x)]), "layer.weight", "type merge and does not fit"),
        (
            entry(
                adapter(2),
            ),
            "norm.weight",
            "type lora and does not fit",
        ),
        (entry(adapter(2, _5=[4, 4])), "layer.weight", "type lora and does not fit"),
        (entry(adapter(2, rows=20)), "layer.weight", "made for a weight of 20 x 10, but this model's is 12 x 10"),
        (entry(adapter(2, rows=6), offset=(0, 8, 6)), "layer.weight", "reaches to row 14 .* this model's is 12 x 10"),
        (entry(adapter(2, columns=6), offset=(1, 5, 6)), "layer.weight", "column 11 .* this model's is 12 x 10"),
        (
            entry(adapter(2, rows=4), offset=(0, 0, 6)),
            "layer.weight",
            "made for a weight of 4 x 10, but this model's is 6",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(patch: Any, name: str, message: str) -> None:
    with pytest.raises(lora.LoRAError, match=message) as error:
        check(patch, name)
    assert f"diffusion_model.{name}" in str(error.value)
