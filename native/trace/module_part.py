"""The part of a module that a trace needs, and its weights as fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

Function = Callable[[torch.nn.Module, dict[str, torch.Tensor]], Any]


@dataclass(frozen=True, eq=False)
class OfPart:
    """A function that needs no more of the module than the part at this path: a trace then takes only that in hand."""

    path: str
    function: Function

    def __call__(self, module: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
        """As the function."""
        return self.function(module, inputs)


def weights_in(part: torch.nn.Module, path: str, held: Collection[str]) -> dict[str, torch.Tensor]:
    """The parameters of a part at this path, and the buffers whose values are not its own.

    Those are statistics that a file has, held, and those on the meta device.
    """
    buffers = dict(part.named_buffers(path, remove_duplicate=False))
    return dict(part.named_parameters(path, remove_duplicate=False)) | {
        name: buffer
        for name, buffer in buffers.items()
        if buffer.is_meta or (name in held and buffer.is_floating_point())
    }


def fakes_of(mode: FakeTensorMode, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fake tensors of these shapes on the CPU, floats as F32; made outside the mode, which takes 30 times as long."""
    return {
        name: FakeTensor(mode, torch.empty(tuple(x.shape), dtype=_traced_type(x), device="meta"), torch.device("cpu"))
        for name, x in tensors.items()
    }


def _traced_type(x: torch.Tensor) -> torch.dtype:
    return torch.float32 if x.is_floating_point() else x.dtype
