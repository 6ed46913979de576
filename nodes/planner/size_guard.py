"""A torch dispatch mode under which nodes executed for a plan neither compute nor allocate large tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from ...native.quota import check_quota
from .unknown import Unplanned

_MAX_BYTES = 1 << 30  # bytes
_MAX_UNWRITTEN = 4 << 30  # of zeros without memory, of which a node that leaves torch may still make a copy
_COMPUTED_BYTES = 16 << 20
_OF_PICTURES = 4  # dimensions, or more; a mask has three, and its values may steer what a node does
_REPEAT = torch.ops.aten.repeat.default


class SizeGuard(TorchDispatchMode):
    """Gives zeros without memory for large pictures, latents and layers' states, whose values are not known anyway.

    Raises Unplanned from an operation whose result would be larger than 1 GiB, of those than 4 GiB.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs an operation after checking the size of its result (TorchDispatchMode)."""
        kwargs = kwargs or {}
        check_quota()
        if not func._schema.returns or func._schema.returns[0].alias_info is not None:  # a view, or in place
            written = list(_written(func, args, kwargs))
            if any(_is_large(x) or _without_memory(x) for x in written):
                return written[0]
            return func(*args, **kwargs)
        nbytes = 4 * max(_elements(func, args, kwargs), default=0)
        if nbytes > _COMPUTED_BYTES:
            made = _shaped(func, args, kwargs)
            if isinstance(made, torch.Tensor) and _is_unknown(made, args) and 4 * made.numel() <= _MAX_UNWRITTEN:
                return torch.zeros((), dtype=made.dtype).expand(made.shape)
            if nbytes > _MAX_BYTES:
                raise Unplanned(f"it makes a tensor of {nbytes / 2**30:,.1f} GiB")
            check_quota(nbytes)
        return func(*args, **kwargs)


def _without_memory(x: torch.Tensor) -> bool:
    """Whether all elements of a tensor, such as a part of large zeros, lie in one place."""
    return x.numel() > 1 and not any(stride for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1)


def _is_picture(x: torch.Tensor) -> bool:
    return x.ndim >= _OF_PICTURES and x.dtype.is_floating_point


def _is_large(x: torch.Tensor) -> bool:
    """Whether a tensor is of pictures, and takes more than may be computed."""
    return _is_picture(x) and 4 * x.numel() > _COMPUTED_BYTES


def _is_unknown(made: torch.Tensor, args: Sequence[Any]) -> bool:
    """Whether the result of an operation is a large picture, or a picture made of one without memory."""
    return _is_large(made) or (
        _is_picture(made) and any(isinstance(x, torch.Tensor) and _is_large(x) and _without_memory(x) for x in args)
    )


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """The tensors that an operation writes into."""
    for number, argument in enumerate(func._schema.arguments):
        given = args[number] if number < len(args) else kwargs.get(argument.name)
        if argument.is_write and isinstance(given, torch.Tensor):
            yield given


def _shaped(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The result of an operation without values; None where its shape hangs on values."""

    def without_values(value: Any) -> Any:
        return value.to("meta") if isinstance(value, torch.Tensor) else value

    try:
        given, named = tree_map(without_values, (tuple(args), dict(kwargs)))
        return func(*given, **{**named, **({"device": "meta"} if "device" in _names(func) else {})})
    except (NotImplementedError, RuntimeError):
        return None


def _names(func: Any) -> set[str]:
    return {argument.name for argument in func._schema.arguments}


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
