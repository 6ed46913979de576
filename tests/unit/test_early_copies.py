"""A small part of a large tensor that is needed late is copied, so that the rest of it is free meanwhile."""

from __future__ import annotations

from native.program import Output, Program
from native.program.builder import Builder
from tests.bench.liveness import at_peak

MIB = 1 << 20


def walked(steps: int, frames: int = 8, last: int = 2) -> Program:
    """A video of `frames`, the last of which are added to what so many steps make of all of them."""
    b = Builder()
    video = b.op("exp", b.leaf("input", "x", "F32", (frames, MIB // 4)))
    x = video
    for _ in range(steps):
        x = b.op("sin", x)
    carried = b.window(video, [(last, MIB // 4), (MIB // 4, 1)], (frames - last) * MIB // 4)
    ends = b.window(x, [(last, MIB // 4), (MIB // 4, 1)], 0)
    joined = b.op("add", ends, carried)
    return b.program([Output(joined, (last, MIB // 4))])[0]


def copies(program: Program) -> list[int]:
    return [index for index, row in enumerate(program.tensors) if row.name == "cont"]


def test_the_last_frames_are_copied_before_what_follows() -> None:
    program = walked(40)
    program.check()
    (copy,) = copies(program)
    assert program.tensors[copy].ne == (MIB // 4, 2, 1, 1)
    assert [row.name for row in program.tensors[:copy]].count("sin") == 1
    assert program.tensors[-1].sources[1] == copy
    views = [row for row in program.tensors if row.name == "view"]
    assert len(views) == 2  # none that nothing reads
    assert at_peak(program)[0] == (2 + 2 * 8) * MIB  # the copy, and the source and result of a step


def test_what_is_needed_soon_or_is_most_of_it_is_not_copied() -> None:
    assert not copies(walked(10))
    assert not copies(walked(40, last=5))
