"""Results of operations on fake tensors by torch's kernels for meta tensors alone.

The mode of fake tensors takes five times as long, and needs to see only those that have a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager

_aten = torch.ops.aten
# With a result of their tensors' type. Torch's kernels of these for meta tensors are Python, which takes ten times as
# long as to make an empty tensor.
_PLAIN = {_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.addcmul.default, _aten.gelu.default,
          _aten.silu.default}  # fmt: skip


@cache
def has_meta_kernel(function: Any) -> bool:
    """Whether an operation makes views, or numbers element by element, writes into nothing and asks for no value."""
    if torch.Tag.pointwise not in function.tags:
        return bool(function.is_view)
    return not function._schema.is_mutable and torch.Tag.data_dependent_output not in function.tags


def by_meta_kernel(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A new tensor, or views, of fake tensors; by the mode of fake tensors where one of them has a value."""
    first = args[0]
    tensors: list[Any] = [x for x in args if isinstance(x, torch.Tensor)]
    fake = all(isinstance(x, FakeTensor) and x.constant is None for x in tensors)
    if not fake or not tensors or first is not tensors[0] or _of_chosen_rows(args):
        return function(*args, **kwargs)
    mode, device = first.fake_mode, first.fake_device
    if function in _PLAIN and (shape := _plain_shape(args, tensors)) is not None:
        function, args, kwargs = _aten.new_empty.default, (first, shape), {}
    with in_kernel_invocation_manager(mode):
        made = function(*args, **kwargs)
    if made is first:  # as `to` returns a tensor that is already so
        return made
    if isinstance(made, torch.Tensor):
        return FakeTensor(mode, made, device)
    return [FakeTensor(mode, view, device) for view in made]


def _plain_shape(args: Any, tensors: Sequence[torch.Tensor]) -> torch.Size | None:
    """The shape of a result that is contiguous and of its tensors' dtype; None for another one."""
    dtype, shape = tensors[0].dtype, max((x.shape for x in tensors), key=lambda shape: (len(shape), math.prod(shape)))
    if not dtype.is_floating_point or any(x.dtype != dtype for x in tensors):
        return None
    if any(isinstance(x, complex) for x in args):
        return None
    for x in tensors:
        if x.shape == shape and not x.is_contiguous():
            return None
        if any(n not in (1, whole) for n, whole in zip(reversed(x.shape), reversed(shape), strict=False)):
            return None
    return shape


def _of_chosen_rows(args: Any) -> bool:
    """Whether sizes among these arguments are numbers of rows that the device chooses."""
    flat = [item for x in args for item in (x if isinstance(x, (list, tuple)) else (x,))]
    return any(isinstance(x, torch.SymInt) or getattr(x, "_has_symbolic_sizes_strides", False) for x in flat)
