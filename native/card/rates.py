"""Measures how fast a card computes products of each type, attention, convolutions and copies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..placement import MIB
from ..program import Output, Program, Tensor
from ..program.parameters import Conv2d, MulMat, Nothing, Permute, Softmax
from ..program.tensor import nbytes
from .blocks import Work, timed
from .random_weights import TYPES
from .report import Rate
from .trial import Trial

_TIMES = 3


@dataclass(frozen=True)
class Sizes:
    """Of what is measured. tokens, columns and rows of a product; side of a picture and its channels."""

    tokens: int = 1024
    columns: int = 3072
    rows: int = 4096
    side: int = 128
    channels: int = 320
    heads: int = 24
    attended: int = 1536  # tokens
    copied: int = 4096  # rows and columns

    @staticmethod
    def small() -> Sizes:
        """For a device that computes on the processor."""
        return Sizes(64, 256, 256, 16, 32, 2, 64, 256)


def works(sizes: Sizes) -> Iterator[tuple[str, Work]]:
    """Programs of one operation, each with the mean of its result behind it; and what they are called."""
    for type_ in TYPES:
        w = Tensor("weight", "w", type_, (sizes.columns, sizes.rows, 1, 1))
        x = Tensor("weight", "x", "F32", (sizes.columns, sizes.tokens, 1, 1))
        yield f"product {type_}", _one("mul_mat", (sizes.rows, sizes.tokens, 1, 1), (w, x), MulMat())
    channels = 128
    query = Tensor("weight", "q", "F32", (channels, sizes.attended, sizes.heads, 1))
    keys = [Tensor("weight", name, "F16", query.ne) for name in ("k", "v")]
    made = (channels, sizes.heads, sizes.attended, 1)
    yield "attention", _one("flash_attn", made, (query, *keys), Softmax(channels**-0.5))
    kernel = Tensor("weight", "kernel", "F16", (3, 3, sizes.channels, sizes.channels))
    picture = Tensor("weight", "picture", "F32", (sizes.side, sizes.side, sizes.channels, 1))
    yield "convolution 3x3", _one("conv_2d", picture.ne, (kernel, picture), Conv2d(1, 1, 1, 1, 1, 1))
    square = Tensor("weight", "x", "F32", (sizes.copied, sizes.copied, 1, 1))
    other = Tensor("weight", "y", "F32", square.ne)
    yield "addition", _one("add", square.ne, (square, other), Nothing())
    turned = Tensor("op", "permute", "F32", square.ne, (0,), Permute(1, 0, 2, 3))
    rows = (square, turned, Tensor("op", "cont", "F32", square.ne, (1,), Nothing()))
    yield "transposition", timed(Work("cont", Program(rows, (Output(2, tuple(reversed(square.ne))),)), {}, ("cont",)))


def measure(card: Trial, setting: str, sizes: Sizes) -> Iterator[Rate]:
    """The rates, one after the other; raises Stopped and Interrupted."""
    for name, work in works(sizes):
        rows = work.program.tensors
        at = max(index for index, row in enumerate(rows) if row.kind == "op" and row.name != "mean")
        seconds = card.rows(work, _TIMES)[at]
        row = rows[at]
        if row.name in ("add", "cont"):
            amount, unit = float(sum(nbytes(each) for each in (row, *(rows[source] for source in row.sources)))), "B"
        else:
            amount, unit = work.flops - rows[-1].ne[1] * rows[-1].ne[2] * rows[-1].ne[3], "FLOP"
        yield Rate(name, setting, seconds, amount, unit)


def measure_upload(card: Trial, setting: str, sizes: Sizes) -> Rate:
    """Weights from the page cache to the device; raises as `measure`."""
    rows = tuple(Tensor("weight", f"{number}", "F16", (sizes.copied, sizes.copied, 1, 1)) for number in range(4))
    total = sum(nbytes(row) for row in rows)
    reads = tuple(Tensor("op", "cast", "F32", row.ne, (number,), ("F32",)) for number, row in enumerate(rows))
    outputs = tuple(Output(len(rows) + number, tuple(reversed(row.ne))) for number, row in enumerate(reads))
    seconds = card.load(Work(f"{total / MIB:.0f} MiB", Program(rows + reads, outputs)))
    return Rate("loading from the page cache", setting, seconds, float(total), "B")


def measure_block(card: Trial, work: Work, setting: str) -> Rate:
    """A whole block, with hardly anything carried to the device and back; raises as `measure`."""
    _, seconds = card.repeat(timed(work), 1 + _TIMES)
    return Rate(f"block of {work.label}", setting, min(seconds[1:]), work.flops, "FLOP")


def _one(
    name: str, ne: tuple[int, int, int, int], leaves: tuple[Tensor, ...], parameters: tuple[float | str, ...]
) -> Work:
    row = Tensor("op", name, "F32", ne, tuple(range(len(leaves))), parameters)
    program = Program((*leaves, row), (Output(len(leaves), tuple(reversed(ne))),))
    return timed(Work(name, program, {}, (name,)))
