"""At least one small function of torch for every operation that has a handler, in files named as the handlers'."""

from __future__ import annotations

from . import (
    attention,
    comparison,
    convolution,
    data_movement,
    elementwise,
    linear_algebra,
    matmul,
    norms,
    padding,
    patches,
    reductions,
    resampling,
    rope,
    rounding,
    sampling,
    selection,
)
from .case import Case, Inputs, Parameters

__all__ = ["CASES", "Case", "Inputs", "Parameters"]

_SUBJECTS = (
    attention, comparison, convolution, data_movement, elementwise, linear_algebra, matmul, norms, padding, patches,
    reductions, resampling, rope, rounding, sampling, selection,
)  # fmt: skip
CASES: tuple[Case, ...] = tuple(case for subject in _SUBJECTS for case in subject.CASES)
