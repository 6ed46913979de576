"""Checks what a card computes: each operation of a block by itself, the block as a whole, and that twice."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..program import Output, Program, Tensor
from ..program.parameters import Nothing
from .blocks import NARROW, Block, Work
from .compare import mistakes
from .isolate import operations, single
from .report import FAULTS, Finding, Verdict
from .trial import Stopped, Trial

START = "start"
_LARGEST = 64 << 20  # bytes of a program's outputs
_NAMED = 12  # wrong operations of a block


@dataclass
class Reference:
    """Results of the processor, kept, as several settings of a driver are compared with them."""

    trial: Trial
    known: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def outputs(self, work: Work) -> list[np.ndarray]:
        """The outputs of a program; raises Stopped and Interrupted."""
        digest = work.program.digest
        if digest not in self.known:
            self.known[digest] = self.trial.run(work)
        return self.known[digest]


def check_start(card: Trial) -> Finding:
    """One addition, after which it is known whether the driver computes at all; raises Interrupted."""
    leaves = tuple(Tensor("weight", name, "F32", (64, 1, 1, 1)) for name in ("a", "b"))
    program = Program((*leaves, Tensor("op", "add", "F32", (64, 1, 1, 1), (0, 1), Nothing())), (Output(2, (64,)),))
    a, b = np.linspace(-1, 1, 64, dtype="<f4"), np.linspace(5, 3, 64, dtype="<f4")
    work = Work("one addition", program, {"a": a, "b": b}, ("add",))
    try:
        wrong = mistakes(work, card.run(work), [a + b])
    except Stopped as error:
        return Finding(START, error.verdict, str(error))
    return _judged(START, list(wrong), Verdict.RIGHT, "one addition")


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
            return Finding(check, error.verdict, f"{_culprit(card, work)}{error}", tuple(wrong[:_NAMED]))
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
    named = f", of which {_NAMED} are named" if len(wrong) > _NAMED else ""
    return Finding(check, Verdict.WRONG, f"{len(wrong)} wrong{named}; {text}", tuple(wrong[:_NAMED]))


def _dies(card: Trial, work: Work) -> bool:
    """Whether a program ends a process that has done nothing else."""
    try:
        card.run(work)
    except Stopped as error:
        return error.verdict is Verdict.DIED
    return False


def _culprit(card: Trial, work: Work) -> str:
    """The first operation of several that ends in the same way when it is alone, in words."""
    for each in single(work):
        try:
            card.run(each)
        except Stopped as again:
            if again.verdict not in FAULTS or (again.verdict is Verdict.DIED and not _dies(card, each)):
                break
            return f"{each.names[0]}: "
    return "not one operation by itself, but several together: "
