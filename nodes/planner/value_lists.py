"""Outputs that are lists of values: a node that takes one is executed for each value, as ComfyUI does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from .unknown import Inputs, Outputs, Unknown


@dataclass(frozen=True)
class ValueList:
    """The values of an output that has more than one."""

    values: tuple[Any, ...]


def executions(node_class: Any, inputs: Inputs) -> Iterator[Inputs]:
    """The inputs of each execution of a node; of a list that is shorter than others the last value counts again."""
    lists = [each for each in inputs.values() if isinstance(each, ValueList)]
    if not lists or getattr(node_class, "INPUT_IS_LIST", False):
        yield inputs
        return
    for number in range(max(len(each.values) for each in lists)):
        yield {name: _value(each, number) for name, each in inputs.items()}


def _value(given: Any, number: int) -> Any:
    return given.values[min(number, len(given.values) - 1)] if isinstance(given, ValueList) else given


def merged(made: Sequence[Outputs]) -> Outputs:
    """The outputs of a node from those of its executions."""
    return tuple(_one_or_list(list(chain(*map(_values, each)))) for each in zip(*made, strict=False))


def _values(output: Any) -> Sequence[Any]:
    return output.values if isinstance(output, ValueList) else (output,)


def _one_or_list(values: Sequence[Any]) -> Any:
    """An output of these values; one that is unknown makes all of it unknown."""
    unknown = next((each for each in values if isinstance(each, Unknown)), None)
    if unknown is not None or len(values) == 1:
        return unknown or values[0]
    return ValueList(tuple(values))


def given_lists(node_class: Any, inputs: Inputs) -> Inputs:
    """The inputs that a node is called with: lists all of them where it takes lists."""
    if not getattr(node_class, "INPUT_IS_LIST", False):
        return inputs
    return {name: list(_values(each)) for name, each in inputs.items()}


def made_lists(node_class: Any, outputs: Outputs) -> Outputs:
    """The outputs of a call, of which some are lists."""
    is_list = getattr(node_class, "OUTPUT_IS_LIST", None) or (False,) * len(outputs)
    empty = Unknown("the list that it comes from is empty")
    return tuple(
        (_one_or_list(output) if output else empty) if listed else output
        for output, listed in zip(outputs, is_list, strict=False)
    )
