"""Nodes that are executed for a plan make no tensor that a computer would notice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .unknown import Unplanned

_LARGEST = 1 << 30  # bytes
_REPEAT = torch.ops.aten.repeat.default


class SizeGuard(TorchDispatchMode):
    """Ends a node that would make a tensor of more than 1 GiB: raises Unplanned."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """As torch calls it."""
        kwargs = kwargs or {}
        if func._schema.returns and func._schema.returns[0].alias_info is None:  # no view, nothing in place
            nbytes = 4 * max(_elements(func, args, kwargs), default=0)
            if nbytes > _LARGEST:
                raise Unplanned(f"it makes a tensor of {nbytes / 2**30:,.1f} GiB")
        return func(*args, **kwargs)


def _elements(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[int]:
    """How large, by its arguments, the result of an operation may be."""
    given = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
    given.update(kwargs)
    tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
    yield from (tensor.numel() for tensor in tensors)
    if func is _REPEAT:
        yield tensors[0].numel() * prod(given["repeats"])
    if isinstance(given.get("tensors"), Sequence):  # to be joined
        yield sum(tensor.numel() for tensor in given["tensors"])
    if isinstance(given.get("size"), Sequence):
        yield prod(given["size"])
    if isinstance(given.get("output_size"), Sequence):  # of a picture scaled
        yield prod(tensors[0].shape[:2]) * prod(given["output_size"])
