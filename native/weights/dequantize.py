"""ggml's quantized blocks to float32, through the gguf package's numpy code."""

from __future__ import annotations

from math import gcd

import numpy as np

from ..ggml_types import LAYOUTS
from .weight_file import WeightFileError

ROW = 4096  # elements; gguf works on 16 rows at a time, and short rows keep that in the CPU's cache


def dequantize(stored: str, raw: np.ndarray) -> np.ndarray:
    """The float32 values of whole blocks (uint8), both flat; raises WeightFileError without a fitting gguf package."""
    try:
        from gguf import GGMLQuantizationType, quants  # 0.3 s, and most files never need it
    except ImportError as error:
        raise WeightFileError(
            f"The Python package gguf is needed to read {stored} weights. Install this pack's requirements.txt."
        ) from error
    layout = LAYOUTS[stored]
    row = layout.nbytes * gcd(raw.size // layout.nbytes, max(1, ROW // layout.block))
    with np.errstate(all="ignore"):  # the scales of a damaged file may be NaN or infinite
        try:
            return quants.dequantize(raw.reshape(-1, row), GGMLQuantizationType(layout.number)).reshape(-1)
        except (NotImplementedError, ValueError) as error:
            raise WeightFileError(
                f"The installed Python package gguf cannot read {stored} weights: {error}. Update it."
            ) from error
