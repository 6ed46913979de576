"""An operation that is about to be made in ggml, and the checks without which ggml would abort the process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...ggml_types import LAYOUTS
from ...program import Tensor
from ...program.tensor import Value
from ..ggml_binding import ggml


class OperationFault(ValueError):
    """An operation that ggml cannot do with these sources."""


class Call(NamedTuple):
    """One operation of a program: its row, its parameters, and the rows and ggml tensors of its sources."""

    context: Any
    tensor: Tensor
    parameters: Any  # of the class that the table of operations names
    declared: list[Tensor]
    sources: list[Any]


def require(condition: bool, fault: str) -> None:
    """Raise OperationFault where a condition does not hold."""
    if not condition:
        raise OperationFault(fault)


def within(values: Sequence[Value], least: int = 0, limit: int = 1 << 62) -> None:
    """Raise it where values are no whole numbers from `least` to below `limit`."""
    fits = all(isinstance(value, int) and least <= value < limit for value in values)
    require(fits, f"of {tuple(values)} not all are from {least} to below {limit}")


def rows_contiguous(call: Call, *indices: int) -> None:
    """Raise it where dimension 0 of a source has gaps."""
    for index in indices:
        size = LAYOUTS[call.declared[index].type].nbytes
        require(call.sources[index].contents.nb[0] == size, f"the rows of source {index} are not contiguous")


def contiguous(call: Call, *indices: int) -> None:
    """Raise it where a source has gaps anywhere."""
    for index in indices:
        require(ggml.ggml_is_contiguous(call.sources[index]), f"source {index} is not contiguous")


def types(call: Call, index: int, *types: str) -> None:
    """Raise it where a source is of another type."""
    found = call.declared[index].type
    require(found in types, f"source {index} is {found}; it takes {', '.join(types)}")
