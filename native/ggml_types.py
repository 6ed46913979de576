"""Block sizes and numbers of the element types of weights: ggml's, and those that only safetensors has."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True)
class TypeLayout:
    """The block of a type: its elements and bytes; and the number of the type in ggml and GGUF files."""

    block: int  # elements
    nbytes: int  # bytes
    number: int | None = None  # None: not a type of ggml


# Numbers and sizes: enum ggml_type and type_traits in ggml.h / ggml.c 0.15.
LAYOUTS: dict[str, TypeLayout] = {
    "F32": TypeLayout(1, 4, 0),
    "F16": TypeLayout(1, 2, 1),
    "Q4_0": TypeLayout(32, 18, 2),
    "Q4_1": TypeLayout(32, 20, 3),
    "Q5_0": TypeLayout(32, 22, 6),
    "Q5_1": TypeLayout(32, 24, 7),
    "Q8_0": TypeLayout(32, 34, 8),
    "Q8_1": TypeLayout(32, 36, 9),
    "Q2_K": TypeLayout(256, 84, 10),
    "Q3_K": TypeLayout(256, 110, 11),
    "Q4_K": TypeLayout(256, 144, 12),
    "Q5_K": TypeLayout(256, 176, 13),
    "Q6_K": TypeLayout(256, 210, 14),
    "Q8_K": TypeLayout(256, 292, 15),
    "IQ2_XXS": TypeLayout(256, 66, 16),
    "IQ2_XS": TypeLayout(256, 74, 17),
    "IQ3_XXS": TypeLayout(256, 98, 18),
    "IQ1_S": TypeLayout(256, 50, 19),
    "IQ4_NL": TypeLayout(32, 18, 20),
    "IQ3_S": TypeLayout(256, 110, 21),
    "IQ2_S": TypeLayout(256, 82, 22),
    "IQ4_XS": TypeLayout(256, 136, 23),
    "I8": TypeLayout(1, 1, 24),
    "I16": TypeLayout(1, 2, 25),
    "I32": TypeLayout(1, 4, 26),
    "I64": TypeLayout(1, 8, 27),
    "F64": TypeLayout(1, 8, 28),
    "IQ1_M": TypeLayout(256, 56, 29),
    "BF16": TypeLayout(1, 2, 30),
    "TQ1_0": TypeLayout(256, 54, 34),
    "TQ2_0": TypeLayout(256, 66, 35),
    "MXFP4": TypeLayout(32, 17, 39),
    "NVFP4": TypeLayout(64, 36, 40),
    "Q1_0": TypeLayout(128, 18, 41),
    "F8_E4M3": TypeLayout(1, 1),
    "F8_E5M2": TypeLayout(1, 1),
    "F8_E8M0": TypeLayout(1, 1),  # a power of two, for scales
    "E2M1": TypeLayout(2, 1),  # four bits each, two in a byte: names for U8 and I8 that a file says more about
    "I4": TypeLayout(2, 1),
    "BOOL": TypeLayout(1, 1),
    "U8": TypeLayout(1, 1),
    "U16": TypeLayout(1, 2),
    "U32": TypeLayout(1, 4),
    "U64": TypeLayout(1, 8),
}
GGML_TYPES: dict[int, str] = {layout.number: name for name, layout in LAYOUTS.items() if layout.number is not None}
FLOATS = frozenset({"F32", "F16", "BF16", "F64", "F8_E4M3", "F8_E5M2"})
INTEGERS = frozenset({"I8", "I16", "I32", "I64", "BOOL", "U8", "U16", "U32", "U64"})
CODES = frozenset({"F8_E8M0", "E2M1", "I4"})  # which mean nothing without more
# ggml keeps these two for activations inside a multiplication; no device multiplies weights stored in them.
ACTIVATIONS = frozenset({"Q8_1", "Q8_K"})
QUANTIZED = frozenset(LAYOUTS) - FLOATS - INTEGERS - CODES - ACTIVATIONS


def tensor_bytes(type_name: str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor of this type and shape (torch order; the last dimension is a multiple of the block)."""
    layout = LAYOUTS[type_name]
    return prod(shape) // layout.block * layout.nbytes


def alignment(type_name: str) -> int:
    """Alignment in bytes that ggml needs to read a tensor of this type in place."""
    layout = LAYOUTS[type_name]
    return layout.nbytes if layout.block == 1 else 4
