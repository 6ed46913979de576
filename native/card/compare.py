"""Compares results with those of the processor, and says how they differ."""

from __future__ import annotations

import numpy as np

from .blocks import Work

# Relative L2 that is no fault. Devices with fp16 multiply in it, and round activations to 8 bits for quantized weights,
# as ggml's CPU backend does; that one reads GELU from a table of F16 values.
_PRODUCT, _GELU, _OTHER = 3e-2, 5e-3, 2e-3
_WHOLE = 8e-2  # a block, where such errors add up
_SINGLE = 10.0  # an element may be wrong by so many times that, beside the mean of all


def mistakes(work: Work, found: list[np.ndarray], expected: list[np.ndarray]) -> tuple[str, ...]:
    """The outputs that are wrong, in words."""
    made = []
    for output, name, ours, theirs in zip(work.program.outputs, work.names, found, expected, strict=True):
        fault = difference(ours, theirs, tolerance(work, output.tensor))
        if fault:
            made.append(f"{name}: {fault}")
    return tuple(made)


def tolerance(work: Work, index: int) -> float:
    """How far an output may be from the processor's, as relative L2."""
    if work.whole:
        return _WHOLE
    rows = work.program.tensors
    row = rows[index]
    if row.name == "cast" and rows[row.sources[0]].kind == "op":  # only as outputs are F32
        row = rows[row.sources[0]]
    if row.name in ("mul_mat", "flash_attn", "conv_2d", "conv_3d", "conv_2d_dw"):
        return _PRODUCT
    return _GELU if row.name.startswith("gelu") else _OTHER


def difference(found: np.ndarray, expected: np.ndarray, allowed: float) -> str:
    """How a result is wrong, in words; nothing where it is not."""
    if found.shape != expected.shape:
        return f"its shape is {list(found.shape)} instead of {list(expected.shape)}"
    unknown = ~np.isfinite(found)
    if unknown.any():
        return f"{unknown.mean():.2%} of its values are infinite or not a number"
    mean = float(np.sqrt(np.mean(np.square(expected, dtype="f8")))) or 1.0
    apart = np.abs(found - expected)
    error, largest = float(np.sqrt(np.mean(np.square(apart, dtype="f8")))) / mean, float(apart.max()) / mean
    if error <= allowed and largest <= _SINGLE * allowed:
        return ""
    zeros = float(np.mean((found == 0) & (expected != 0)))
    wrong = float(np.mean(apart > allowed * mean))
    off = f"{error:.1%}" if error < 10 else "more than 10 times"
    said = f"off by {off} where {allowed:.1%} are usual; {wrong:.2%} of its values are wrong"
    return f"{said}, {zeros:.2%} are 0 instead" if zeros > 1e-4 else said
