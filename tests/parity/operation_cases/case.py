"""A case of an operation: a small function of torch, compared with torch on every device; and its usual inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A function of a module with parameters of these shapes, and the shapes of its inputs.

    host: inputs that are not random: ids, masks, tables. gelu: GELU takes part. outliers: results are also right
    when some inputs are as large as 1e5.
    """

    name: str
    function: Callable[[Any, Inputs], Any]
    shapes: dict[str, tuple[int, ...]]
    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)
    host: Inputs = field(default_factory=dict)
    gelu: bool = False
    outliers: bool = True


class Parameters(torch.nn.Module):
    """A module of parameters and nothing else."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], device: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        for name, shape in shapes.items():
            values = torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 1.0)
            self.register_parameter(name, torch.nn.Parameter(values.to(device), requires_grad=False))


X = {"x": (2, 6, 32)}
XY = {"x": (2, 6, 32), "y": (2, 6, 32)}
IMAGE = {"x": (2, 32, 6, 8)}


def undivided(function: Callable[..., Tensor], *args: Any) -> Tensor:
    """The result of a composite operation that a trace sees as one, as where it is called in the course of another."""
    with torch._C._AutoDispatchBelowAutograd():
        return function(*args)


def heads(x: Tensor) -> Tensor:
    """[batch, tokens, 32] as [batch, 4 heads, tokens, 8]."""
    return x.unflatten(-1, (4, -1)).transpose(1, 2)
