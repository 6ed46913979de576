"""A torch dispatch mode under which nodes executed for a plan cannot allocate large tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .unknown import Unplanned

_MAX_BYTES = 1 << 30  # bytes
_REPEAT = torch.ops.aten.repeat.default


class SizeGuard(TorchDispatchMode):
    """Raises Unplanned from an operation whose result would be larger than 1 GiB."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs an operation after checking the size of its result (TorchDispatchMode)."""
        kwargs = kwargs or {}
        if func._schema.returns and func._schema.returns[0].alias_info is None:  # no view, nothing in place
            nbytes = 4 * max(_elements(func, args, kwargs), default=0)
            if nbytes > _MAX_BYTES:
                raise Unplanned(f"it makes a tensor of {nbytes / 2**30:,.1f} GiB")
        return func(*args, **kwargs)


def _elements(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[int]:
    """Upper bounds of the elements of an operation's result, from its arguments."""
    arguments = {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
    arguments.update(kwargs)
    tensors = [value for value in arguments.values() if isinstance(value, torch.Tensor)]
    yield from (tensor.numel() for tensor in tensors)
    if func is _REPEAT:
        yield tensors[0].numel() * prod(arguments["repeats"])
    if isinstance(arguments.get("tensors"), Sequence):  # concatenated
        yield sum(tensor.numel() for tensor in arguments["tensors"])
    if isinstance(arguments.get("size"), Sequence):
        yield prod(arguments["size"])
    if isinstance(arguments.get("output_size"), Sequence):  # of an interpolation
        yield prod(tensors[0].shape[:2]) * prod(arguments["output_size"])
