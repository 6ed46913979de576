"""At least one small function of torch for every operation that has a handler, in files named as the handlers'."""

from __future__ import annotations

from . import (
    attention,
    convolution,
    data_movement,
    elementwise,
    linear_algebra,
    matmul,
    norms,
    padding,
    patches,
    resampling,
    rope,
    sampling,
)
from .case import Case, Inputs, Parameters

__all__ = ["CASES", "Case", "Inputs", "Parameters"]

_SUBJECTS = (
    attention, convolution, data_movement, elementwise, linear_algebra, matmul, norms, padding, patches, resampling,
    rope, sampling,
)  # fmt: skip
CASES: tuple[Case, ...] = tuple(case for subject in _SUBJECTS for case in subject.CASES)
