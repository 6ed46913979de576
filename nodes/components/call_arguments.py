"""Splits a call's arguments into the tensors, which a program takes, and the rest, which its trace hangs on."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Slot:
    """The place of a tensor in a structure."""

    name: str


def part(value: Any, name: str, tensors: dict[str, Tensor]) -> Hashable:
    """The structure of `value` with a Slot for every tensor; the tensors are added to `tensors`, equal ones once.

    value: anything of tensors, lists, tuples, dictionaries and hashable values. name: for the tensors, and messages.
    Raises TypeError for a value that is none of these.
    """
    if isinstance(value, Tensor):
        for known, tensor in tensors.items():
            if tensor is value:
                return Slot(known)
        tensors[name] = value
        return Slot(name)
    if isinstance(value, dict):
        return dict, tuple((key, part(item, f"{name}.{key}" if name else key, tensors)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return list, tuple(part(item, f"{name}.{index}", tensors) for index, item in enumerate(value))
    if not isinstance(value, Hashable):
        raise TypeError(f"A node gave the diffusion model a {type(value).__name__} as {name}, which cannot be traced.")
    return value


def join(structure: Any, tensors: dict[str, Tensor]) -> Any:
    """Put a structure that `part` made together again, with these tensors in it."""
    match structure:
        case Slot(name):
            return tensors[name]
        case (kind, items) if kind is dict:
            return {key: join(item, tensors) for key, item in items}
        case (kind, items) if kind is list:
            return [join(item, tensors) for item in items]
    return structure
