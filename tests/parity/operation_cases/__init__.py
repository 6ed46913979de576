"""At least one small function of torch for every operation that has a handler, in files named as the handlers'."""

from __future__ import annotations

from . import (
    attention,
    comparison,
    convolution,
    data_movement,
    elementwise,
    matmul,
    norms,
    reductions,
    resampling,
    rope,
    rounding,
    selection,
)
from .case import Case, Inputs, Parameters

__all__ = ["CASES", "Case", "Inputs", "Parameters"]

CASES: tuple[Case, ...] = tuple(
    case
    for subject in (
        attention, comparison, convolution, data_movement, elementwise, matmul, norms, reductions, resampling, rope,
        rounding, selection,
    )
    for case in subject.CASES
)  # fmt: skip
