"""Runs a module whose parameters lie on the meta device with values that are read where they are used.

A function mode is local to its thread, and the module is this pack's own, so torch models that run in other threads
see nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from ...client import Interrupted
from ...lower import Branch
from ...weights import content, read_rows
from ..shortest import shortest
from .weight_reader import Values

# What is asked of a parameter without its values.
_FACTS = {getattr(Tensor, name).__get__ for name in ("shape", "dtype", "ndim", "requires_grad")}
_FACTS |= {Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.__len__}
_DEVICE = getattr(Tensor, "device").__get__  # noqa: B009


class EngineMode(TorchFunctionMode):
    """Gives every function of torch the values of the parameters among its arguments."""

    def __init__(
        self, names: dict[int, str], values: Values, vectors: dict[str, Tensor], half: bool,
        interrupted: Callable[[], bool] | None, advance: Callable[[], None],
        branches: Mapping[str, Sequence[Branch]],
    ) -> None:  # fmt: skip
        """names: of the parameters, by their id. vectors: small parameters once read, which stay.

        half: multiply matrices in BF16, but not those whose file has them in F32. advance: called at every layer.
        """
        super().__init__()
        self.names = names
        self.values = values
        self.vectors = vectors
        self.half = half
        self.interrupted = interrupted
        self.advance = advance
        self.branches = branches

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is linear:
            return self._linear(*args, **kwargs)
        if func is embedding:
            return self._embedding(*args, **kwargs)
        if func == Tensor.to and id(args[0]) in self.names and args[0].ndim == 2:
            return args[0]  # its values have one type anyway, and a product takes them by rows
        if func in _FACTS:
            return func(*args, **kwargs)
        if func == _DEVICE and id(args[0]) in self.names:
            return torch.device("cpu")
        args, kwargs = tree_map(self._real, (tuple(args), kwargs))
        return func(*args, **kwargs)

    def _real(self, value: Any) -> Any:
        """The values of a parameter in float32; anything else as it is."""
        name = self.names.get(id(value))
        if name is None:
            return value
        if name in self.vectors:
            return self.vectors[name]
        self._enter_layer()
        found = self.values.whole(name)
        for branch, down, up in self._branches(name):
            rows = found.flatten(1)[branch.row : branch.row + branch.rows]
            rows[:, branch.column : branch.column + branch.columns] += up @ down
        if found.ndim < 2:
            self.vectors[name] = found
        return found

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """torch.nn.functional.linear, the weight dequantized and multiplied by runs of its rows.

        x: [..., columns]. Returns [..., rows].
        """
        x, bias, name = self._real(x), self._real(bias), self.names.get(id(weight))
        if name is None:
            return linear(x, weight, bias)
        self._enter_layer()
        rows, columns = weight.shape
        flat = x.reshape(-1, columns).float()
        # A single row costs next to nothing in either type, dequantizing aside.
        half = self.half and len(flat) > 1 and self.values.stored(name) != "F32"
        given = flat.bfloat16() if half else flat
        out = flat.new_empty(len(flat), rows)
        for first, run in self.values.by_rows(name, given.dtype):
            part = out[:, first : first + len(run)]
            if half:
                part.copy_(torch.mm(given, run.T))
            else:
                torch.mm(given, run.T, out=part)
        if bias is not None:
            out += bias
        for branch, down, up in self._branches(name):
            hidden = flat[:, branch.column : branch.column + branch.columns] @ down.T
            out[:, branch.row : branch.row + branch.rows].addmm_(hidden, up.T)
        return out.view(*x.shape[:-1], rows).to(x.dtype)

    def _embedding(self, tokens: Tensor, weight: Tensor, *more: Any, **options: Any) -> Tensor:
        """torch.nn.functional.embedding, which reads the rows of the tokens alone: [...] to [..., columns]."""
        name = self.names.get(id(weight))
        parameter = self.values.weights.parameters.get(name or "")
        if name is None or parameter is None or name in self.values.weights.arrays or self.branches.get(name):
            return embedding(tokens, self._real(weight), *more, **options)
        self._enter_layer()
        rows = torch.from_numpy(read_rows(parameter, tokens.flatten().numpy()))
        return rows.view(*tokens.shape, rows.shape[-1])

    def _branches(self, name: str) -> Iterator[tuple[Branch, Tensor, Tensor]]:
        """The low-rank branches beside a weight: down [rank, columns], up [rows, rank]."""
        arrays = self.values.weights.arrays
        for number, branch in enumerate(self.branches.get(name, ())):
            down, up = (torch.from_numpy(content(arrays[each])).float() for each in Branch.names(name, number))
            yield branch, down, up

    def _enter_layer(self) -> None:
        if self.interrupted is not None and self.interrupted():
            raise Interrupted("the run was interrupted")
        self.advance()


# Processors with instructions for BF16 are 2 to 16 times as fast with them, others several times as slow.
MARGIN = 1.3
_TOKENS, _SIZE, _TYPES = 128, 1024, (torch.float32, torch.bfloat16)


@cache
def half_is_faster() -> bool:
    """Whether this processor multiplies matrices faster in BF16 than in F32 by a clear margin; measured once."""
    factors = {type_: (torch.ones(_TOKENS, _SIZE).to(type_), torch.ones(_SIZE, _SIZE).to(type_)) for type_ in _TYPES}
    taken = shortest(lambda: {type_: _seconds(*each) for type_, each in factors.items()}, lambda: False)
    return taken[torch.float32] > MARGIN * taken[torch.bfloat16]


def _seconds(x: torch.Tensor, weight: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(x, weight.T)
    return time.perf_counter() - start
