"""Checks that a card has the memory that its driver reports as free, and that it holds what is written there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..placement import MIB
from ..program import Output, Program, Tensor
from ..program.parameters import Nothing
from ..wire.messages import Device
from .blocks import Work
from .report import Finding, Verdict
from .trial import Stopped, Trial

CHECK = "memory"
_COLUMNS = 256
_PIECE, _SMALL_PIECE = 256 * MIB, 4 * MIB  # bytes of a tensor; shaders of software drivers reach no further
_SOFTWARE_MOST = 32 * MIB  # of what is the processor's memory anyway
_SHARE = 0.8  # of what is free: some goes to ggml's own needs and to other programs
_SMALLEST = 1 / 16  # of the whole, below which no more is tried


def check_memory(card: Trial, device: Device, most: int | None = None) -> Finding:
    """Fill most of what is free, `most` bytes at most, each part with rows of its own, and look at all of it again.

    Raises Interrupted.
    """
    software = "software" in device.features
    piece = _SMALL_PIECE if software else _PIECE
    wanted = int(min(device.free * _SHARE, most or (_SOFTWARE_MOST if software else device.free)))
    pieces = count = max(1, wanted // piece)
    refusal = ""
    while True:
        work, expected = _filled(count, piece)
        try:
            found = card.run(work)
            break
        except Stopped as error:
            if error.verdict is not Verdict.REFUSED or count // 2 < pieces * _SMALLEST:
                return Finding(CHECK, error.verdict, f"{refusal}with {count * piece / MIB:,.0f} MiB: {error}")
            refusal = refusal or f"{error} "
            count //= 2
    wrong = tuple(
        f"part {number} of {count}: {np.mean(~np.isclose(part, value, rtol=1e-3)):.2%} of its rows do not hold what "
        "was written"
        for number, (part, value) in enumerate(zip(found, expected, strict=True), 1)
        if not np.allclose(part, value, rtol=1e-3)
    )
    said = f"{count * piece / MIB:,.0f} MiB of {device.free / MIB:,.0f} MiB that the driver reports as free"
    if wrong:
        return Finding(CHECK, Verdict.WRONG, f"{said} do not hold what is written there", wrong[:4])
    if refusal:
        return Finding(CHECK, Verdict.REFUSED, f"it gives only {said}: {refusal}")
    return Finding(CHECK, Verdict.RIGHT, f"{said} were filled and read")


def _filled(count: int, piece: int) -> tuple[Work, list[float]]:
    """A program that holds `count` tensors at once, and the mean that each row of each has."""
    rows = piece // (4 * _COLUMNS)
    tensors, outputs, values, means = [], [], {}, []
    rng = np.random.default_rng(1)
    for number in range(count):
        name = f"row {number}"
        values[name] = (1.0 + number + rng.random(_COLUMNS)).astype("<f4")
        means.append(float(values[name].mean()))
        tensors.append(Tensor("weight", name, "F32", (_COLUMNS, 1, 1, 1)))
    ne = (_COLUMNS, rows, 1, 1)  # of all of them, before any is read
    tensors += [Tensor("op", "repeat", "F32", ne, (number,), Nothing()) for number in range(count)]
    for number in range(count):
        tensors.append(Tensor("op", "mean", "F32", (1, rows, 1, 1), (count + number,), Nothing()))
        outputs.append(Output(len(tensors) - 1, (rows, 1)))
    return replace(Work("memory", Program(tuple(tensors), tuple(outputs)), values), names=tuple(values)), means
