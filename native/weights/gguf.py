"""GGUF headers, versions 2 and 3, little endian. Format: docs/gguf.md in the ggml repository."""

from __future__ import annotations

from math import prod
from struct import Struct, unpack
from typing import Any, BinaryIO

from ..ggml_types import GGML_TYPES, LAYOUTS, tensor_bytes
from .header_cursor import HeaderCursor
from .weight_file import MAX_NAME, FileTensor, WeightFile, WeightFileError, check_extents

MAGIC = b"GGUF"
U32, U64 = Struct("<I"), Struct("<Q")
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAX_TEXT = 1 << 20  # bytes; longer strings are passed over
MAX_KEPT = 64  # elements; longer arrays (tokenizers) are passed over
MAX_STRINGS = 1 << 22  # elements of one array: ten times the largest vocabulary, under a second to pass over
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS


def read_gguf(path: str, file: BinaryIO, size: int, mtime_ns: int) -> WeightFile:
    """The header of an open GGUF file of `size` bytes; raises WeightFileError."""
    cursor = HeaderCursor(path, file, size)
    cursor.take(len(MAGIC), "the magic number")
    tensor_count, metadata_count = _counts(cursor)
    metadata = _metadata(cursor, metadata_count)
    parts = metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise WeightFileError(
            f"{path} is one of {parts} parts of a split model. Join the parts into one file with "
            "llama.cpp's `llama-gguf-split --merge` and choose that file."
        )
    step = _alignment(cursor, metadata)
    entries = [_entry(cursor) for _ in range(tensor_count)]
    data = -(-cursor.position // step) * step
    tensors: dict[str, FileTensor] = {}
    for name, dimensions, number, offset in entries:
        if name in tensors:
            raise cursor.damaged(f"the tensor {name} is listed twice")
        if offset % step:
            raise cursor.damaged(f"the tensor {name} lies at {offset:,}, which is not a multiple of {step}")
        tensors[name] = _tensor(cursor, name, dimensions, number, data + offset, metadata)
    check_extents(path, size, tensors.values())
    architecture = metadata.get("general.architecture")
    return WeightFile(
        path, size, mtime_ns, "gguf", architecture if isinstance(architecture, str) else None, metadata, tensors
    )


def _counts(cursor: HeaderCursor) -> tuple[int, int]:
    """Checks the version; returns how many tensors and how many metadata entries follow."""
    version = cursor.number(U32, "the version")
    if version & 0xFFFF == 0:
        raise WeightFileError(f"{cursor.path} is a big-endian GGUF file. Use the ordinary (little-endian) file.")
    if version not in (2, 3):
        raise WeightFileError(
            f"{cursor.path} says it is GGUF version {version}; versions 2 and 3 are read. "
            "The file is too old, too new or damaged: download a current one."
        )
    tensors = cursor.number(U64, "the number of tensors")
    entries = cursor.number(U64, "the number of metadata entries")
    cursor.expect(entries, 13, "metadata entries")  # key length, type, one byte of value
    cursor.expect(tensors, 24, "tensors")  # name length, dimensions, type, offset
    if tensors == 0:
        raise WeightFileError(f"{cursor.path} holds no tensors (a vocabulary alone?). Choose a model file.")
    return tensors, entries


def _metadata(cursor: HeaderCursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    seen = set()
    for _ in range(count):
        key = cursor.string(MAX_NAME, "a metadata key")
        if not key or key in seen:
            raise cursor.damaged(f"the metadata key {key!r} is empty or listed twice")
        seen.add(key)
        value = _value(cursor, cursor.number(U32, f"the type of {key}"), key)
        if value is not None:
            metadata[key] = value
    return metadata


def _value(cursor: HeaderCursor, kind: int, key: str) -> Any:
    """One metadata value, or None where it is too long to keep."""
    if kind in SCALARS:
        return cursor.numbers(SCALARS[kind], 1, key)[0]
    if kind == STRING:
        return cursor.text(MAX_TEXT, key)
    if kind != ARRAY:
        raise cursor.damaged(f"the metadata entry {key} has the unknown type {kind}")
    kind = cursor.number(U32, f"the element type of {key}")
    count = cursor.number(U64, f"the length of {key}")
    if kind in SCALARS:
        if count <= MAX_KEPT:
            return list(cursor.numbers(SCALARS[kind], count, key))
        cursor.skip(count * Struct("<" + SCALARS[kind]).size, key)
        return None
    if kind != STRING:
        raise cursor.damaged(f"the metadata entry {key} is an array of the type {kind}")
    cursor.expect(count, 8, f"strings of {key}")
    if count <= MAX_KEPT:
        return [cursor.text(MAX_TEXT, key) for _ in range(count)]
    if count > MAX_STRINGS:
        raise cursor.damaged(f"the metadata entry {key} has {count:,} strings")
    cursor.skip_strings(count, key)
    return None


def _alignment(cursor: HeaderCursor, metadata: dict[str, Any]) -> int:
    step = metadata.get("general.alignment", 32)
    if not isinstance(step, int) or step <= 0 or step & (step - 1):
        raise cursor.damaged(f"its general.alignment is {step}, which is not a power of two")
    return step


def _entry(cursor: HeaderCursor) -> tuple[str, tuple[int, ...], int, int]:
    """One tensor's name, dimensions (fastest first), type number, and offset within the data."""
    name = cursor.string(MAX_NAME, "a tensor's name")
    count = cursor.number(U32, f"the number of dimensions of {name}")
    if count > MAX_DIMENSIONS:
        raise cursor.damaged(f"the tensor {name} has {count:,} dimensions")
    *dimensions, number, offset = unpack(f"<{count}QIQ", cursor.take(8 * count + 12, f"the tensor {name}"))
    return name, tuple(dimensions), number, offset


def _tensor(
    cursor: HeaderCursor, name: str, dimensions: tuple[int, ...], number: int, offset: int, metadata: dict[str, Any]
) -> FileTensor:
    if number not in GGML_TYPES:
        raise WeightFileError(
            f"{cursor.path}: the tensor {name} has the ggml type {number}, which is not known here: a removed or newer "
            "quantization, or a damaged file. Use a file quantized to Q2_K to Q8_0, IQ, F16, BF16 or F32."
        )
    stored = GGML_TYPES[number]
    block = LAYOUTS[stored].block
    shape = tuple(reversed(dimensions))
    if 0 in shape or (shape[-1] if shape else 1) % block:
        raise cursor.damaged(
            f"the {stored} tensor {name} has the shape {list(shape)}, not possible in blocks of {block}"
        )
    return FileTensor(name, stored, _original_shape(cursor, name, shape, metadata), offset, tensor_bytes(stored, shape))


def _original_shape(
    cursor: HeaderCursor, name: str, shape: tuple[int, ...], metadata: dict[str, Any]
) -> tuple[int, ...]:
    """The shape before ComfyUI-GGUF's converter folded the rows to fit a quantization's blocks; the bytes stay."""
    original = metadata.get(f"comfy.gguf.orig_shape.{name}")
    if original is None:
        return shape
    if (
        not isinstance(original, list)
        or not all(type(n) is int and n > 0 for n in original)
        or prod(original) != prod(shape)
    ):
        raise cursor.damaged(f"the tensor {name} is {list(shape)} but its original shape is given as {original}")
    return tuple(original)
