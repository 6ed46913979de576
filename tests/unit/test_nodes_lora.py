"""Weight patches: low-rank branches equal what core adds to a weight; everything else is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.pack import part

lora = part("nodes.components.lora")

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


def entry(adapter: Any, strength: float = 1.0, model: float = 1.0, offset: Any = None, function: Any = None) -> Any:
    return strength, adapter, model, offset, function


def test_branch_equals_what_core_adds() -> None:
    patches = [
        entry(adapter(4), 0.7),
        entry(adapter(3, rows=5, alpha=6.0), -1.5, offset=(0, 2, 5)),
        entry(adapter(2, columns=4, alpha=1.0), 0.5, offset=(1, 6, 4)),
        entry(adapter(8), 0.0),
        entry(adapter(2, alpha=3.0), 0.3, function=swap_scale_shift),
    ]
    for patch in patches:
        if patch[0]:
            lora.check(KEY, patch, Core(), "layer.weight")
    weight = torch.randn(ROWS, COLUMNS)
    branch = lora.low_rank(patches, weight.shape)
    assert branch.down.shape == (11, COLUMNS)
    assert branch.up.shape == (ROWS, 11)
    expected = comfy.lora.calculate_weight(patches, weight.clone(), KEY)
    torch.testing.assert_close(weight + torch.from_numpy(branch.up @ branch.down), expected)


def test_convolution_shaped_lora_is_flattened() -> None:
    made = LoRAAdapter(set(), (torch.randn(ROWS, 2, 1, 1), torch.randn(2, COLUMNS, 1, 1), None, None, None, None))
    lora.check(KEY, entry(made), Core(), "layer.weight")
    assert lora.low_rank([entry(made)], torch.Size((ROWS, COLUMNS))).down.shape == (2, COLUMNS)


def test_no_strength_is_no_branch() -> None:
    assert lora.low_rank([entry(adapter(4), 0.0)], torch.Size((ROWS, COLUMNS))) is None


@pytest.mark.parametrize(
    ("patch", "name", "message"),
    [
        (entry(LoHaAdapter(set(), ())), "layer.weight", "type loha"),
        (entry(("diff", (torch.ones(1),))), "layer.weight", "type diff"),
        (entry(("set", (torch.ones(1),))), "layer.bias", "type set"),
        (entry((torch.ones(1),)), "layer.weight", "type diff"),
        (entry([(torch.ones(1), None)]), "layer.weight", "type merge"),
        (entry(adapter(2, _3=torch.ones(1))), "layer.weight", "LoCon"),
        (entry(adapter(2, _4=torch.ones(1))), "layer.weight", "DoRA"),
        (entry(adapter(2, _5=[1, 2])), "layer.weight", "reshapes"),
        (entry(adapter(2), model=0.5), "layer.weight", "type lora and multiplies the weight itself by 0.5"),
        (entry([(torch.ones(1), None)], model=0.5), "layer.weight", "type merge and multiplies .* by 0.5"),
        (entry(("diff", (torch.ones(1),)), model=2.0), "norm.weight", "type diff and multiplies .* by 2"),
        (entry(adapter(2, _4=torch.ones(1)), model=0.5), "layer.weight", "type lora and multiplies"),
        (entry(adapter(2), function=torch.nn.Identity()), "layer.weight", "type lora and passes .* function Identity"),
        (entry(("diff", (torch.ones(1),)), function=abs), "layer.bias", "type diff and passes .* function abs"),
        (entry(adapter(2)), "norm.weight", "something other than the weight of a linear layer"),
        (entry(adapter(2)), "embedding.weight", "something other than the weight of a linear layer"),
        (entry(adapter(2)), "layer.bias", "something other than the weight of a linear layer"),
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
def test_anything_else_is_refused_by_name(patch: Any, name: str, message: str) -> None:
    with pytest.raises(lora.LoRAError, match=message) as error:
        lora.check(f"diffusion_model.{name}", patch, Core(), name)
    assert f"diffusion_model.{name}" in str(error.value)
