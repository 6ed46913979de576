"""Checks what a card computes: each operation of a block by itself, the block as a whole, and that twice."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .blocks import NARROW, Block, Work
from .compare import mistakes
from .isolate import operations, single
from .report import FAULTS, Finding, Verdict
from .trial import Stopped, Trial

_LARGEST = 64 << 20  # bytes of a program's outputs
_NAMED = 12  # wrong operations of a block


@dataclass
class Reference:
    """Results of the processor, kept, as several settings of a driver are compared with them."""

    trial: Trial
    known: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def outputs(self, work: Work) -> list[np.ndarray]:
        """What a program computes; raises Stopped and Interrupted."""
        digest = work.program.digest
        if digest not in self.known:
            self.known[digest] = self.trial.run(work)
        return self.known[digest]


def check_operations(card: Trial, reference: Reference, block: Block, size: str) -> Finding:
    """Each operation of a block with random weights; raises Interrupted."""
    check = f"operations of {block.name}"
    wrong: list[str] = []
    count = 0
    for work in operations(block.work(size), _LARGEST):
        count += len(work.names)
        try:
            expected = reference.outputs(work)
        except Stopped as error:
            return Finding(check, Verdict.LEFT_OUT, f"on the processor: {error}", tuple(wrong[:_NAMED]))
        try:
            wrong += mistakes(work, card.run(work), expected)
        except Stopped as error:
            if error.verdict is Verdict.LEFT_OUT:
                return _judged(check, wrong, Verdict.LEFT_OUT, str(error))
            return Finding(check, error.verdict, f"{_culprit(card, work, error)}{error}", tuple(wrong[:_NAMED]))
    return _judged(check, wrong, Verdict.RIGHT, f"{count} different operations")


def check_whole(card: Trial, reference: Reference, block: Block, size: str) -> Finding:
    """A whole block, which drivers and ggml may fuse and overlap, and the same again; raises Interrupted."""
    check = f"block of {block.name}"
    work = block.work(size)
    try:
        expected = reference.outputs(work)
        (first, second), _ = card.repeat(work, 2)
    except Stopped as error:
        return Finding(check, error.verdict, str(error))
    wrong = mistakes(work, first, expected)
    if not wrong and any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True)):
        wrong = (f"{block.name} as a whole: not the same when it is computed again",)
    return _judged(check, list(wrong), Verdict.RIGHT, "as a whole, twice" if size == NARROW else "at real width, twice")


def _judged(check: str, wrong: list[str], otherwise: Verdict, text: str) -> Finding:
    if not wrong:
        return Finding(check, otherwise, text)
    more = f", and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    return Finding(check, Verdict.WRONG, f"{len(wrong)} wrong{more}; {text}", tuple(wrong[:_NAMED]))


def _culprit(card: Trial, work: Work, error: Stopped) -> str:
    """The first operation of several that ends in the same way when it is alone, in words."""
    for each in single(work):
        try:
            card.run(each)
        except Stopped as again:
            if again.verdict in FAULTS:
                return f"{each.names[0]}: "
            break
    return "not one operation by itself, but several together: "
