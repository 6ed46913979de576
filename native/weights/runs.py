"""Runs: where files have the elements of a parameter, one after the other, and how their codes become values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import lcm

from ..ggml_types import LAYOUTS


@dataclass(frozen=True, slots=True)
class Factors:
    """Factors of a matrix's elements, which a file has as a tensor of their own: one for every tile of the matrix."""

    path: str
    stored: str  # a type of ggml_types.LAYOUTS
    offset: int  # bytes from the start of the file
    shape: tuple[int, int]  # rows and columns of tiles
    tile: tuple[int, int]  # rows and columns of the matrix that share a factor
    swizzled: bool = False  # in cuBLAS' order of block scaling factors: 128 rows by 4 columns together


@dataclass(frozen=True, slots=True)
class Scaling:
    """How whole rows of a matrix of codes become values: times all factors, and then turned back."""

    columns: int  # of the matrix
    factors: tuple[Factors, ...] = ()
    row: int = 0  # of the matrix, that the run begins with
    rotation: int = 0  # columns that a Hadamard matrix has turned together; 0: none


@dataclass(frozen=True, slots=True)
class Run:
    """Elements that follow each other in a parameter: bytes of a file, in parts of one size and distance."""

    path: str
    stored: str  # type in the file
    offset: int  # bytes from the start of the file
    nbytes: int  # of a part
    scale: float = 1.0  # factor of the stored values
    parts: int = 1
    stride: int = 0  # bytes from the start of a part to that of the next
    scaling: Scaling | None = None  # of a run of one part that is whole rows of a matrix

    @property
    def stored_bytes(self) -> int:
        """Bytes of all parts."""
        return self.nbytes * self.parts

    @property
    def elements(self) -> int:
        """Elements of all parts."""
        layout = LAYOUTS[self.stored]
        return self.stored_bytes // layout.nbytes * layout.block

    @property
    def grain(self) -> int:
        """Elements that cannot be told apart: a block, or a row that has factors."""
        block = LAYOUTS[self.stored].block
        return lcm(self.scaling.columns, block) if self.scaling else block

    @property
    def unit(self) -> int:
        """Elements that are converted together: a part, or a grain where there is one part."""
        return self.elements // self.parts if self.parts > 1 else self.grain

    def is_as_loaded(self, type_: str) -> bool:
        """Whether its bytes are those of a tensor of a ggml type."""
        return self.stored == type_ and self.scale == 1.0 and self.scaling is None

    def cut(self, first: int, last: int) -> Iterator[Run]:
        """The runs of the elements from `first` to before `last`. Raises ValueError where these are within a grain."""
        if first % self.grain or last % self.grain:
            raise ValueError(f"elements {first} to {last} of {self.stored} are no whole blocks or rows")
        part = self.elements // self.parts
        while first < last:
            index, inside = divmod(first, part)
            whole = 0 if inside else (last - first) // part
            if whole:
                yield replace(self, offset=self.offset + index * self.stride, parts=whole)
                first += whole * part
            else:
                end = min(last, (index + 1) * part)
                yield self._of_part(index, inside, end - first)
                first = end

    def _of_part(self, index: int, start: int, count: int) -> Run:
        """Elements of one part."""
        layout, scaling = LAYOUTS[self.stored], self.scaling
        return replace(
            self,
            offset=self.offset + index * self.stride + start // layout.block * layout.nbytes,
            nbytes=count // layout.block * layout.nbytes,
            parts=1,
            scaling=scaling and replace(scaling, row=scaling.row + start // scaling.columns),
        )


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as its runs have it: what a file names, or what a reader makes of it by other names, rows or scales."""

    name: str  # in the file, for messages
    shape: tuple[int, ...]  # torch order
    runs: tuple[Run, ...]
    matrix: str | None = None  # type that a matrix of it is loaded as; None: as load_type has it
    turned: str | None = None  # type of a matrix that stays turned, as its layer can turn what it multiplies instead
    padding: int = 0  # rows and columns of a matrix are filled up to a multiple of it, with zeros; 0: never


def between(runs: Iterable[Run], first: int, last: int) -> Iterator[Run]:
    """The runs of the elements from `first` to before `last` of all; raises as Run.cut."""
    for run in runs:
        count = run.elements
        if first < count and last > 0:
            yield from run.cut(max(first, 0), min(last, count))
        first, last = first - count, last - count


def apart(runs: Sequence[Run], first: int, count: int, parts: int, step: int) -> Run:
    """Parts of `count` elements, `step` elements apart from element `first` on. Raises ValueError as Run.cut."""
    run, *others = runs
    block, nbytes = LAYOUTS[run.stored].block, LAYOUTS[run.stored].nbytes
    if others or run.parts > 1 or run.scaling or any(number % block for number in (first, count, step)):
        raise ValueError(f"parts of {count} elements of {run.stored} are no whole blocks of one run")
    return replace(
        run, offset=run.offset + first // block * nbytes, nbytes=count // block * nbytes, parts=parts,
        stride=step // block * nbytes,
    )  # fmt: skip


def joined(runs: Iterable[Run]) -> tuple[Run, ...]:
    """The same elements in fewer runs: one where the bytes of the next follow."""
    found: list[Run] = []
    for run in runs:
        if found and run == _next(found[-1], run.nbytes):
            found[-1] = replace(found[-1], nbytes=found[-1].nbytes + run.nbytes)
        else:
            found.append(run)
    return tuple(found)


def _next(run: Run, nbytes: int) -> Run | None:
    """The run of so many bytes that follow those of a run."""
    if run.parts > 1:
        return None
    scaling = run.scaling
    after = scaling and replace(scaling, row=scaling.row + run.elements // scaling.columns)
    return replace(run, offset=run.offset + run.nbytes, nbytes=nbytes, scaling=after)
