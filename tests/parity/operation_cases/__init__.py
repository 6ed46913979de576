"""At least one small function of torch for every operation that has a handler, in files named as the handlers'."""

from __future__ import annotations

from . import attention, convolution, data_movement, elementwise, matmul, norms, padding, resampling, rope
from .case import Case, Inputs, Parameters

__all__ = ["CASES", "Case", "Inputs", "Parameters"]

CASES: tuple[Case, ...] = tuple(
    case
    for subject in (attention, convolution, data_movement, elementwise, matmul, norms, padding, resampling, rope)
    for case in subject.CASES
)
