"""Codes of less than 16 bits to the values they stand for, before any scale."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

PLAIN: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "F64": np.dtype("<f8")}
_PAIRS = 1 << 18  # bytes from which a table of pairs is worth making
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # OCP Microscaling Formats 1.0, section 5.3.3; the high bit is the sign


def decoded(stored: str, scale: float, dtype: np.dtype, raw: bytes | memoryview | np.ndarray) -> np.ndarray:
    """The values of codes, flat, times a scale."""
    codes = np.frombuffer(raw, np.uint8)
    if stored in ("E2M1", "I4"):
        return _values(stored, scale, dtype).view(f"<u{2 * dtype.itemsize}")[codes].view(dtype).reshape(-1)
    if codes.size < _PAIRS or codes.size % 2:
        return _values(stored, scale, dtype)[codes]
    return _pairs(stored, scale, dtype)[codes.view("<u2")].view(dtype)


@lru_cache(maxsize=64)
def _values(stored: str, scale: float, dtype: np.dtype) -> np.ndarray:
    """The values of each of the 256 bytes.  # [256], or [256, 2] where a byte is two codes"""
    with np.errstate(over="ignore", invalid="ignore"):
        return (_unscaled(stored).astype(np.float32) * np.float32(scale)).astype(dtype)


@lru_cache(maxsize=4)
def _pairs(stored: str, scale: float, dtype: np.dtype) -> np.ndarray:
    """The two values of each pair of bytes, as one number of twice their size: half the look-ups.  # [65536]"""
    first, second = np.meshgrid(*[_values(stored, scale, dtype)] * 2, indexing="ij")
    return np.stack([second, first], axis=-1).reshape(-1).view(f"<u{2 * dtype.itemsize}")


def _unscaled(stored: str) -> np.ndarray:
    byte = np.arange(256, dtype=np.uint16)
    low, high = (byte & 15).astype(np.int32), (byte >> 4).astype(np.int32)
    if stored == "E2M1":  # the high half is the even column (comfy_kitchen, backends/eager/quantization.py: hi_first)
        signed = np.array([*E2M1, *(-value for value in E2M1)])
        return np.stack([signed[high], signed[low]], axis=1)
    if stored == "I4":  # the low half is the even column (comfy_kitchen, backends/eager/svdquant.py)
        return np.stack([low - 16 * (low > 7), high - 16 * (high > 7)], axis=1)
    if stored == "I8":
        return byte.astype(np.uint8).view(np.int8)
    if stored == "F8_E8M0":  # as comfy_kitchen, float_utils.py: 0 is 0 there and not 2**-127
        return np.where(byte == 0, 0.0, np.ldexp(1.0, byte.astype(np.int32) - 127))
    if stored == "F8_E5M2":
        return (byte << 8).view(np.float16)
    return _e4m3(byte)


def _e4m3(byte: np.ndarray) -> np.ndarray:
    """FP8 in the "FN" form: no infinity, NaN at 0x7F and 0xFF (OCP OFP8)."""
    exponent, mantissa = (byte >> 3 & 15).astype(np.int32), (byte & 7).astype(np.float32)
    magnitude = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(mantissa + 8, exponent - 10))
    return np.where(byte & 127 == 127, np.nan, magnitude) * np.where(byte & 128, -1, 1)
