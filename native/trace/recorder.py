"""The steps and storages of a trace while it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from ..quota import check_quota
from .graph import TracedOp, Window
from .origin import Steps


class Recorder:
    """The steps so far, and the number of each storage."""

    def __init__(self) -> None:
        self.steps = Steps()
        self.storages: list[int] = []
        self.constants: dict[int, torch.Tensor] = {}
        self.module_paths: list[str] = []
        self._index: dict[int, int] = {}
        self._alive: list[torch.UntypedStorage] = []  # the address of a freed one could be that of another
        self._sizes: dict[Any, int] = {}
        self.most: dict[Any, int] = {}  # of rows that the device chooses (rows.py): by the symbol of how many there are

    def window(self, tensor: torch.Tensor) -> Window:
        """A tensor as a window; a real tensor that is new is a constant of the module."""
        storage = tensor.untyped_storage()
        index = self._index.get(storage._cdata)
        if index is None:
            index = self._index[storage._cdata] = len(self.storages)
            self.storages.append(self.number(storage.nbytes()) // max(tensor.element_size(), 1))
            self._alive.append(storage)
            if not isinstance(tensor, FakeTensor):
                with unset_fake_temporarily():  # a copy with the values
                    self.constants[index] = tensor.detach().as_strided((self.storages[index],), (1,), 0).clone()
        shape, stride, offset = tuple(tensor.shape), tensor.stride(), tensor.storage_offset()
        if self.most:
            shape, stride = tuple(map(self.number, shape)), tuple(map(self.number, stride))
        return Window(index, shape, stride, self.number(offset), tensor.dtype)

    def number(self, n: Any) -> int:
        """A size, of rows that the device chooses the most there can be."""
        if not isinstance(n, torch.SymInt):
            return int(n)
        size = n.node.expr
        if size not in self._sizes:
            self._sizes[size] = int(size.subs({symbol: self.most[symbol] for symbol in size.free_symbols}))
        return self._sizes[size]

    def alias(self, tensor: torch.Tensor, storage: int) -> None:
        """Make a new tensor another name of a known storage."""
        self._index[tensor.untyped_storage()._cdata] = storage
        self._alive.append(tensor.untyped_storage())

    def fake(self, window: Window) -> torch.Tensor:
        """A fake tensor that is this window of a known storage."""
        base = torch.empty((self.storages[window.storage],), dtype=window.dtype)
        self.alias(base, window.storage)
        return base.as_strided(window.shape, window.stride, window.offset)

    def add(self, name: str, function: Callable[..., Any], args: Any, kwargs: Any, result: Any) -> None:
        """Append a step, unless it only made views."""
        check_quota()
        inputs = self.windows((tuple(args), dict(kwargs)))
        known = len(self.storages)
        results = result if isinstance(result, (tuple, list)) else (result,)
        outputs = tuple(self.window(x) if isinstance(x, torch.Tensor) else None for x in results)
        # as_strided_ and the like only make their tensor another view
        of_values = torch.Tag.inplace_view not in getattr(function, "tags", ())
        mutates = of_values and getattr(getattr(function, "_schema", None), "is_mutable", False)
        if mutates or any(output is not None and output.storage >= known for output in outputs):
            self.steps.append(TracedOp(name, function, inputs[0], inputs[1], outputs, self.module_path))

    def windows(self, value: Any) -> Any:
        """Nested arguments with a window for every tensor."""
        if isinstance(value, torch.Tensor):
            return self.window(value)
        if isinstance(value, (tuple, list)):
            return type(value)(map(self.windows, value))
        if isinstance(value, dict):
            return {key: self.windows(item) for key, item in value.items()}
        return self.number(value) if isinstance(value, torch.SymInt) else value

    @property
    def module_path(self) -> str:
        """Of the module that runs now; empty for the whole."""
        return self.module_paths[-1] if self.module_paths else ""
