"""Rows that the device chooses, by a mask or as a slice between numbers that it computes: the tokens of an expert.

How many there are no trace can know; in the shapes of fake tensors that number is a symbol of torch's. The trace has
all rows there can be, and a mask that says which are: what is computed row by row is computed for all of them, and a
write into other tensors takes those of the mask. What mixes rows, or asks how many there are, cannot be traced.
"""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten

from .apart import Refused, Rows, keeps_apart, naming, place, symbols
from .loops import for_statement, goes_over, leaves_nothing, skips
from .origin import above, places_divided, same
from .recorder import Recorder


@dataclass(eq=False)
class _Loop:
    """A loop over rows. first: the first storage made by the pass that runs; there: whether it takes place, []."""

    frame: FrameType
    statement: ast.For
    first: int
    there: torch.Tensor


class ChosenRows:
    """The rows that the device has chosen in a trace, and the loops over such rows that run."""

    def __init__(self, recorder: Recorder, environment: ShapeEnv, constant: Callable[[torch.Tensor], Any]) -> None:
        """constant: gives the values of a tensor where they are known in a trace of these shapes, else None."""
        self.recorder = recorder
        self.environment = environment
        self.constant = constant
        self.unrecorded: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self.stopped = False  # a loop that did not come to its end
        self._of_symbol: dict[Any, Rows] = {}
        self._free: dict[int, list[torch.SymInt]] = {}  # symbols of rows of passes that are over, by the most of them
        self._places: set[int] = set()  # storages of the numbers of rows
        self._asserted: dict[Any, int] = {}  # what torch was told of each symbol
        self._choices: list[tuple[tuple[Any, ...], int, Rows]] = []  # by what, and after how many steps
        self._loops: list[_Loop] = []
        self._writing = False
        self._passes: set[int] = set()  # storages made by passes of loops that are over
        self._copies: dict[int, tuple[int, int]] = {}  # what stands for a part of another, and since which step

    # -- how rows come about

    def nonzero(self, x: torch.Tensor) -> torch.Tensor:
        """The positions of x where it is not 0: [rows, dimensions of x]."""
        rows = self._chosen("nonzero", x)
        if rows is None:
            mask = (x if x.dtype == torch.bool else x != 0).clone(memory_format=torch.contiguous_format)
            rows = self._remembered(self._rows(mask.reshape(-1)), "nonzero", x)
        with _disable_current_modes():
            places = torch.ones(x.shape, dtype=torch.bool).nonzero().contiguous()
        self._places.add(self.recorder.window(places).storage)
        return self._as_rows(places, rows)

    def bincount(self, x: torch.Tensor, weights: torch.Tensor | None = None, minlength: int = 0) -> torch.Tensor:
        """How often each number is there: [rows], as many as the largest number and one."""
        most = above(self.recorder.steps, self.recorder.window(x))
        if weights is not None or most is None:
            raise Refused("it counts numbers of which the trace does not know how large they can be")
        bins = torch.arange(max(most, minlength))
        counts = (x.reshape(-1, 1) == bins).sum(0)
        if minlength >= most:
            return counts
        mask = bins <= torch.clamp(x.max(), min=minlength - 1)
        return self._as_rows(counts, self._rows(mask, first_ones=True))

    def between(self, x: torch.Tensor, start: Any, stop: Any) -> torch.Tensor:
        """x[start:stop], numbers that the device computes."""
        if symbols(x):
            raise Refused("a slice of rows that the device has chosen")
        count = x.shape[0]
        rows = self._chosen("slice", start, stop, count)
        if rows is None:
            mask = torch.ones(count, dtype=torch.bool)
            for bound, inside in ((start, torch.ge), (stop, torch.lt)):
                if bound is not None:
                    bound = torch.as_tensor(bound)
                    mask = mask & inside(torch.arange(count), torch.where(bound < 0, bound + count, bound))
            rows = self._remembered(self._rows(mask), "slice", start, stop, count)
        copy = x.clone(memory_format=torch.contiguous_format)
        since = self.recorder.window(x).storage, len(self.recorder.steps)
        self._copies[self.recorder.window(copy).storage] = since
        return self._as_rows(copy, rows)

    def number(self, x: torch.Tensor, number: int) -> torch.Tensor | None:
        """x[number], where the row of that number is the same among those that there can be."""
        rows = self._rows_of(x)
        usable = rows is not None and rows.first_ones and number >= 0 and place(x, rows) == 0
        return self.all(x)[number] if usable else None

    def all(self, x: torch.Tensor) -> torch.Tensor:
        """A tensor with all rows there can be."""
        with self.unrecorded():
            return self.recorder.fake(self.recorder.window(x))

    def _rows(self, mask: torch.Tensor, first_ones: bool = False) -> Rows:
        most = int(mask.shape[0])
        size = self._free[most].pop() if self._free.get(most) else self._size(most)
        rows = self._of_symbol[size.node.expr] = Rows(size, size.node.expr, most, mask, first_ones)
        return rows

    def _size(self, most: int) -> torch.SymInt:
        """A new symbol of how many rows there are."""
        size: torch.SymInt = self.environment.create_unbacked_symint()
        torch._check(size >= 0)
        torch._check(size <= most)
        symbol = size.node.expr
        self.recorder.most[symbol] = most
        self._asserted[symbol] = len(self.environment.deferred_runtime_asserts.get(symbol, ()))
        return size

    def _as_rows(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """A contiguous tensor of all rows there can be as one of those that there are."""
        with self.unrecorded():
            result = torch.empty((rows.size, *x.shape[1:]), dtype=x.dtype)
        self.recorder.alias(result, self.recorder.window(x).storage)
        return result

    # -- the same choice a second time

    def _chosen(self, *by: Any) -> Rows | None:
        """The rows that were chosen by the same values before."""
        key, steps = self.recorder.windows(by), self.recorder.steps
        for known, then, rows in reversed(self._choices):
            alike = len(known) == len(key) and all(same(steps, a, b, then) for a, b in zip(known, key, strict=True))
            if alike and not self._over(self.recorder.window(rows.mask).storage):
                return rows
        return None

    def _remembered(self, rows: Rows, *by: Any) -> Rows:
        self._choices.append((self.recorder.windows(by), len(self.recorder.steps), rows))
        return rows

    # -- what may be done with them

    def check(self, name: str, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Raises Refused for an operation that does not keep rows apart, or that a pass of a loop must not do."""
        if self.recorder.most:  # the device has chosen rows
            with naming(name):
                self._check(name, function, args, kwargs, result)

    def _check(self, name: str, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        results = [x for x in tree_flatten(result)[0] if isinstance(x, torch.Tensor)]
        if self.stopped:
            raise Refused("a loop over rows that the device has chosen ends before the last one")
        if self._passes or self._copies or self._loops:
            self._check_storages(function, args, given)
        found = set().union(*map(symbols, tree_flatten((args, kwargs))[0]))
        if self.environment.replacements or any(map(self._is_known, found)):
            raise Refused("it needs to know how many rows there are")
        if not found or not results:
            return
        rows = self._rows_of(args, kwargs)
        places = [place(x, rows) for x in (*results, *filter(symbols, given))] if rows else [None]
        if rows is None or None in places or not keeps_apart(name, function, args, kwargs, rows, given, results):
            raise Refused("it mixes rows of which the device says which are there")

    def _check_storages(self, function: Any, args: Any, given: Sequence[torch.Tensor]) -> None:
        storages = [self.recorder.window(x).storage for x in given]
        if any(map(self._over, storages)):
            raise Refused("it reads what a loop has computed for a row that may not be there")
        for source, since in (self._copies[storage] for storage in storages if storage in self._copies):
            if (self.recorder.steps.writer(source) or 0) >= since:
                raise Refused("it reads a slice that the device has chosen of what was written since")
        arguments = function._schema.arguments if isinstance(function, torch._ops.OpOverload) else ()
        written = [x for argument, x in zip(arguments, args, strict=False) if argument.is_write]
        for x in tree_flatten(written)[0]:
            storage = self.recorder.window(x).storage
            if storage in self._copies:
                raise Refused("it writes into a slice that the device has chosen")
            if self._loops and storage < self._loops[-1].first and not self._writing:
                raise Refused("it writes, in a loop over rows that the device has chosen, what may not be written")

    def check_outputs(self, outputs: Sequence[torch.Tensor]) -> None:
        """Raises Refused where the model returns rows."""
        if self.stopped or any(self._over(self.recorder.window(x).storage) for x in outputs):
            raise Refused("what a loop has computed for a row that may not be there is a result")
        if any(map(symbols, outputs)):
            raise Refused("its result are rows of which the device says how many there are")

    def _rows_of(self, *tensors: Any) -> Rows | None:
        """The rows that tensors have; None where they have none, or several kinds."""
        found = set().union(*map(symbols, tree_flatten(tensors)[0]))
        return self._of_symbol.get(next(iter(found))) if len(found) == 1 else None

    def _is_known(self, symbol: Any) -> bool:
        """Whether torch takes more for granted of how many rows there are than it was told."""
        asserted = len(self.environment.deferred_runtime_asserts.get(symbol, ()))
        return asserted > self._asserted.get(symbol, asserted)

    def _over(self, storage: int) -> bool:
        return storage in self._passes and (storage not in self.recorder.constants or storage in self._places)

    def inside(self, x: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """The indices of x where those of rows that are not there could be beyond its last element: no further."""
        return [
            index.clamp(-n, n - 1)
            if index is not None and symbols(index) and not self._known_inside(index, n)
            else index
            for index, n in zip(indices, x.shape, strict=False)
        ]

    def _known_inside(self, index: torch.Tensor, n: int) -> bool:
        known = self.constant(self.all(index))
        with _disable_current_modes():
            return known is not None and bool(((known >= -n) & (known < n)).all())

    # -- writes into other tensors

    def writes(self, function: Any, args: Any) -> bool:
        """Whether an operation writes rows."""
        return function in _WRITES and any(map(symbols, tree_flatten(args)[0]))

    def write(self, function: Any, args: Any, kwargs: Any) -> torch.Tensor:
        """The result of one that does: as if the rows that are not there were not."""
        rows = self._rows_of(args)
        if rows is None or symbols(args[0]) or not self._first(args, rows):
            raise Refused("it writes rows of several choices, or not row by row")
        self._writing = True
        try:
            result: torch.Tensor = _WRITES[function](self, rows, function, *args, **kwargs)
        finally:
            self._writing = False
        return result

    def _first(self, args: Any, rows: Rows) -> bool:
        """Whether rows are the first dimension of all that has them."""
        tensors = [x for x in tree_flatten(args)[0] if isinstance(x, torch.Tensor) and symbols(x)]
        return all(place(x, rows) == 0 for x in tensors)

    def _mask(self, rows: Rows, like: torch.Tensor) -> torch.Tensor:
        mask = rows.mask
        for loop in self._loops:
            mask = mask & loop.there
        return mask.view(rows.most, *[1] * (like.ndim - 1))

    def put(
        self, rows: Rows, function: Any, x: torch.Tensor, indices: Sequence[torch.Tensor | None],
        values: torch.Tensor, accumulate: bool = False,
    ) -> Any:  # fmt: skip
        """index_put: the rows that are not there put what is there already."""
        if accumulate or any(index is None for index in indices):
            raise Refused("it adds rows up, or writes them at dimensions that are not the first ones")
        places = [self.all(index) for index in indices if index is not None]
        known = [self.constant(index) for index in places]
        if not symbols(indices[0]) or any(each is None or each.ndim > 1 for each in known):
            raise Refused("it writes rows at places that the device computes")
        with _disable_current_modes():
            distinct = len(torch.stack(torch.broadcast_tensors(*known), -1).unique(dim=0))
            inside = all(int(each.min()) >= 0 and int(each.max()) < n for each, n in zip(known, x.shape, strict=False))
        if distinct < rows.most or not inside:
            raise Refused("it writes several rows at the same place, or beyond the last")
        there = torch.ops.aten.index.Tensor(x, places)
        values = torch.where(~self._mask(rows, there), there, self.all(values))  # what was there before comes first
        return function(x, places, values)

    def add(
        self, rows: Rows, function: Any, x: torch.Tensor, dim: int, index: torch.Tensor,
        source: torch.Tensor, alpha: float = 1,
    ) -> Any:  # fmt: skip
        """index_add, of as many rows to each of x: those that are not there are 0."""
        found = self._in_order(self.all(index), x.shape[0]) if symbols(index) else None
        if dim % x.ndim or alpha != 1 or found is None:
            raise Refused("it adds rows up at places that the device computes")
        everything = self.all(source)
        everything = torch.where(self._mask(rows, everything), everything, torch.zeros(()))
        added = everything[found].reshape(x.shape[0], -1, *x.shape[1:]).sum(1)
        return x.add_(added) if function is torch.ops.aten.index_add_.default else x + added

    def _in_order(self, index: torch.Tensor, count: int) -> torch.Tensor | None:
        """The order in which numbers below `count` ascend; None where it is not known that each is there equally often.

        It is for constants, and for the places of sorted elements divided by how many there are of each.
        """
        known = self.constant(index)
        if known is not None:
            with _disable_current_modes():
                often = torch.bincount(known, minlength=count)
                equal = len(often) == count and bool((often == often[0]).all())
            return index.argsort() if equal else None
        places, each = places_divided(self.recorder.steps, self.recorder.window(index)) or (None, 0)
        if places is None or each * count != places.numel:
            return None
        with self.unrecorded():
            permutation = self.recorder.fake(places)
        return permutation.argsort()

    # -- loops

    def each(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """The rows of a tensor, for a `for` statement: a pass for each that may be there."""
        rows = self._rows_of(x)
        frame = sys._getframe(1)
        statement = for_statement(frame)
        if rows is None or statement is None or not goes_over(statement, rows.first_ones):
            raise Refused("it needs to know how many rows there are")
        if not leaves_nothing(frame, statement):
            raise Refused("a pass of the loop may leave something behind that is no write into a tensor")
        everything = self.all(x)
        loop = _Loop(frame, statement, 0, rows.mask)
        self._loops.append(loop)
        finished = False
        try:
            for number in range(rows.most):
                loop.first, loop.there = len(self.recorder.storages), rows.mask[number]
                yield everything[number]
                self._pass_over(range(loop.first, len(self.recorder.storages)))
            finished = True
        finally:
            self._loops.remove(loop)
            self.stopped |= not finished

    def _pass_over(self, storages: range) -> None:
        """Let no one read what a pass has made, and have its symbols stand for the rows of later ones."""
        self._passes.update(storages)
        for symbol, rows in list(self._of_symbol.items()):
            if self._over(self.recorder.window(rows.mask).storage):
                del self._of_symbol[symbol]
                self._free.setdefault(rows.most, []).append(rows.size)

    def passes_over(self, frame: FrameType, condition: torch.Tensor) -> bool:
        """Whether a condition that the device computes is asked for by `if condition: continue` in a loop over rows.

        The pass then takes place where the condition does not hold.
        """
        if not self._loops or self._loops[-1].frame is not frame or condition.dtype != torch.bool or condition.ndim:
            return False
        loop = self._loops[-1]
        if not skips(loop.statement, frame.f_lineno):
            return False
        loop.there = loop.there & ~condition
        return True


_WRITES: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.index_put.default: ChosenRows.put,
    torch.ops.aten.index_put_.default: ChosenRows.put,
    torch.ops.aten.index_add.default: ChosenRows.add,
    torch.ops.aten.index_add_.default: ChosenRows.add,
}
