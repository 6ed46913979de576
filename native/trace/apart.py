"""Rows of which the device says which are there, and which operations keep such rows apart."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

_VIEWS = {"view", "_unsafe_view", "t", "transpose", "permute", "unsqueeze", "squeeze", "expand", "slice", "select",
          "alias", "detach", "split", "split_with_sizes", "unbind"}  # fmt: skip
_FILLS = {"zeros", "ones", "empty", "zeros_like", "ones_like", "empty_like", "new_zeros", "new_ones", "new_empty"}
# with rows in their result they have not mixed any: a product or a sum over rows has none
_BY_ROWS = {"linear", "mm", "addmm", "rms_norm", "native_layer_norm", "clone", "_to_copy", "copy_", "fill_", "zero_",
            "full_like", "sum", "mean", "amax", "amin"}  # fmt: skip
_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
_ALONG = {"_softmax", "cumsum"}  # they mix what is along their dimension


class Refused(Exception):
    """Why something cannot be computed for rows of which the device says which are there."""


@contextlib.contextmanager
def naming(operation: str) -> Iterator[None]:
    """Have a refusal say which operation it is about."""
    try:
        yield
    except Refused as error:
        if len(error.args) == 1:
            error.args = (*error.args, operation)
        raise


@dataclass(frozen=True, eq=False)
class Rows:
    """size: how many there are, `symbol` in shapes; most: how many there can be; mask: which are, [most].

    first_ones: they are the first ones of those that there can be, as the bins of a count are.
    """

    size: torch.SymInt
    symbol: Any
    most: int
    mask: torch.Tensor
    first_ones: bool = False


def keeps_apart(
    name: str, function: Any, args: Any, kwargs: Any, rows: Rows,
    given: Sequence[torch.Tensor], results: Sequence[torch.Tensor],
) -> bool:  # fmt: skip
    """Whether an operation leaves each row in its place, and takes nothing from others; given: its tensors."""
    base = name.split(".")[1] if "." in name else name
    numbers = any(isinstance(x, _SYMBOLIC) for x in tree_flatten((args, kwargs))[0])
    if base in _VIEWS:
        steps = {str(x.stride(place(x, rows) or 0)) for x in (*given, *results) if symbols(x)}
        return len(steps) == 1 or not any(map(symbols, given))
    if base in _FILLS:
        return True
    if numbers:
        return False
    if base in _ALONG:
        dim = args[1] % args[0].ndim
        return dim != place(args[0], rows) or (base == "cumsum" and rows.first_ones)
    if base == "index":
        indexed = [dim for dim, index in enumerate(args[1]) if index is not None]
        return not symbols(args[0]) or place(args[0], rows) not in indexed
    return base in _BY_ROWS or torch.Tag.pointwise in getattr(function, "tags", ())


def symbols(x: Any) -> set[Any]:
    """The symbols in a shape or a number."""
    if isinstance(x, torch.Tensor):
        return set().union(*map(symbols, x.shape))
    return set(x.node.expr.free_symbols) if isinstance(x, _SYMBOLIC) else set()


def place(x: torch.Tensor, rows: Rows) -> int | None:
    """The only dimension of a tensor that rows are; None where there is none, or others."""
    found = [dim for dim, n in enumerate(x.shape) if isinstance(n, torch.SymInt)]
    if len(found) != 1:
        return None
    size: Any = x.shape[found[0]]
    return found[0] if size.node.expr == rows.symbol else None
