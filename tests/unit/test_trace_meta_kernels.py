"""Sums, products and their kin have the shape, the strides and the type in a trace that torch gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from native.trace import Window, trace
from native.trace.meta_kernels import by_meta_kernel, has_meta_kernel

ATEN = torch.ops.aten
OPERATIONS = {
    "add": lambda x, y: x + y, "sub": lambda x, y: torch.sub(x, y, alpha=2), "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y, "maximum": torch.maximum, "greater": lambda x, y: x > y,
    "gelu": lambda x, _: torch.nn.functional.gelu(x * 1.0, approximate="tanh"),
    "silu": lambda x, _: torch.nn.functional.silu(x * 1.0), "addcmul": lambda x, y: torch.addcmul(x, x, y, value=2),
}  # fmt: skip
PICTURE = torch.rand(2, 3, 4, 5)
Pair = tuple[torch.Tensor, torch.Tensor]
PAIRS: dict[str, Callable[[torch.Tensor], Pair]] = {  # of a picture [2, 3, 4, 5]
    "alike": lambda x: (x, x),
    "row": lambda x: (x, x[0, 0, 0]),
    "column": lambda x: (x[0, 0, :, :1], x),
    "outer": lambda x: (x[0, 0, :, :1].clone(), x[0, 0, :1].clone()),
    "permuted": lambda x: (x.transpose(1, 2), x.transpose(1, 2)),
    "one permuted": lambda x: (x.reshape(2, 4, 3, 5), x.transpose(1, 2)),
    "row of permuted": lambda x: (x.permute(0, 2, 3, 1), x[0, :, 0, 0]),
    "channels last": lambda x: (x.contiguous(memory_format=torch.channels_last), x[0, :, :1, :1]),
    "half of it": lambda x: (x[..., ::2], x[..., :3].contiguous()),
    "expanded": lambda x: (x[..., :1].expand(2, 3, 4, 5), x),
    "other type": lambda x: (x, x.double()),
    "half and whole": lambda x: (x.half(), x[0].long()),
    "whole": lambda x: (x.long(), x.int()),
    "one number": lambda x: (x.half(), x[0, 0, 0, 0]),
    "none": lambda x: (x[:0], x[0, 0, 0]),
}


def _result(function: Callable[[torch.Tensor], torch.Tensor]) -> Window:
    """In a trace, of a picture."""
    (found,) = trace("a model", torch.nn.Module(), lambda _, t: function(t["x"]), {"x": PICTURE}).outputs
    return found


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_results_are_as_torch_has_them(
    operation: Callable[..., torch.Tensor], pair: Callable[[torch.Tensor], Pair]
) -> None:
    wanted, found = operation(*pair(PICTURE)), _result(lambda x: operation(*pair(x)))
    assert (found.shape, found.stride, found.dtype) == (tuple(wanted.shape), wanted.stride(), wanted.dtype)


@pytest.mark.parametrize("number", [2, 2.5, True, 1j])
def test_numbers(number: Any) -> None:
    assert _result(lambda x: x * number).dtype == (PICTURE * number).dtype


def test_what_does_not_fit_is_refused_as_torch_does() -> None:
    with pytest.raises(RuntimeError, match="broadcast|must match"):
        _result(lambda x: x + x[..., :4])


def test_which_operations_take_the_shorter_way() -> None:
    """None that writes, none that mixes numbers, and none that asks for values."""
    assert all(map(has_meta_kernel, (ATEN.add.Tensor, ATEN.mul.Tensor, ATEN.view.default, ATEN.silu.default)))
    assert not any(map(has_meta_kernel, (ATEN.add_.Tensor, ATEN.mm.default, ATEN.sum.default, ATEN.equal.default)))
    real = torch.rand(3)
    assert torch.equal(by_meta_kernel(ATEN.add.Tensor, real, real), real + real)
