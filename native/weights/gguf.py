"""Reads GGUF headers, versions 2 and 3, little endian. Format: docs/gguf.md in the ggml repository."""

from __future__ import annotations

import os
from collections.abc import Collection
from math import prod
from struct import Struct, unpack
from typing import Any, BinaryIO

from ..ggml_types import GGML_TYPES, LAYOUTS, tensor_bytes
from .weight_file import MAX_NAME, FileTensor, WeightFile, WeightFileError, check_extents, shard_paths

MAGIC = b"GGUF"
U32, U64 = Struct("<I"), Struct("<Q")
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAX_TEXT = 1 << 20  # bytes; longer strings are skipped
MAX_KEPT = 64  # elements; longer arrays (tokenizers) are skipped
MAX_STRINGS = 1 << 22  # elements of one array: ten times the largest vocabulary, under a second to skip
MAX_DIMENSIONS = 5  # ggml has four; files of video models have Conv3d kernels as they are in torch
CHUNK = 1 << 18  # bytes that are read of the file at once


def read_gguf(path: str, file: BinaryIO, size: int, mtime_ns: int) -> WeightFile:
    """Reads the header of an open GGUF file of `size` bytes. Raises WeightFileError."""
    cursor = HeaderCursor(path, file, size)
    cursor.take(len(MAGIC), "the magic number")
    tensor_count, metadata_count = _counts(cursor)
    metadata = _metadata(cursor, metadata_count)
    parts = metadata.get("split.count", 0)
    if tensor_count == 0 and not parts:  # the first part of a split model may hold no more than metadata
        raise WeightFileError(f"{path} holds no tensors (a vocabulary alone?). Choose a model file.")
    if isinstance(parts, int) and parts > 1 and len(shard_paths(path)) != parts:
        raise WeightFileError(
            f"{path} is one of {parts} parts of a split model, but its name does not say which: give it back its "
            f"name, which ends in -00001-of-{parts:05}.gguf or the like."
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
    check_extents(path, size, tensors.values(), data, step)  # as ggml's gguf.cpp, which takes bytes after the last
    architecture = metadata.get("general.architecture")
    return WeightFile(
        path, size, mtime_ns, "gguf", architecture if isinstance(architecture, str) else None, metadata, tensors
    )


def _counts(cursor: HeaderCursor) -> tuple[int, int]:
    """Checks the version; returns the number of tensors and of metadata entries."""
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
    return tensors, entries


def read_metadata(path: str, keys: Collection[str]) -> dict[str, Any]:
    """Reads entries of the metadata of a GGUF file, of any length. Raises WeightFileError."""
    try:
        with open(path, "rb") as file:
            cursor = HeaderCursor(path, file, os.fstat(file.fileno()).st_size)
            cursor.take(len(MAGIC), "the magic number")
            metadata = _metadata(cursor, _counts(cursor)[1], keys)
    except OSError as error:
        raise WeightFileError(f"{path} can no longer be read: {error.strerror}. Choose the file again.") from error
    return {key: metadata[key] for key in keys if key in metadata}


def _metadata(cursor: HeaderCursor, count: int, whole: Collection[str] = ()) -> dict[str, Any]:
    """Reads the metadata; whole: entries that are kept however long they are."""
    metadata: dict[str, Any] = {}
    seen = set()
    for _ in range(count):
        key = cursor.string(MAX_NAME, "a metadata key")
        if not key or key in seen:
            raise cursor.damaged(f"the metadata key {key!r} is empty or listed twice")
        seen.add(key)
        value = _value(cursor, cursor.number(U32, f"the type of {key}"), key, key in whole)
        if value is not None:
            metadata[key] = value
    return metadata


def _value(cursor: HeaderCursor, kind: int, key: str, whole: bool) -> Any:
    """Reads a metadata value; None for one that is too long to keep."""
    if kind in SCALARS:
        return cursor.numbers(SCALARS[kind], 1, key)[0]
    if kind == STRING:
        return cursor.text(MAX_TEXT, key)
    if kind != ARRAY:
        raise cursor.damaged(f"the metadata entry {key} has the unknown type {kind}")
    kind = cursor.number(U32, f"the element type of {key}")
    count = cursor.number(U64, f"the length of {key}")
    if kind in SCALARS:
        if whole or count <= MAX_KEPT:
            return list(cursor.numbers(SCALARS[kind], count, key))
        cursor.skip(count * Struct("<" + SCALARS[kind]).size, key)
        return None
    if kind != STRING:
        raise cursor.damaged(f"the metadata entry {key} is an array of the type {kind}")
    cursor.expect(count, 8, f"strings of {key}")
    if count > MAX_STRINGS:
        raise cursor.damaged(f"the metadata entry {key} has {count:,} strings")
    if whole or count <= MAX_KEPT:
        return [cursor.text(MAX_TEXT, key) for _ in range(count)]
    cursor.skip_strings(count, key)
    return None


def _alignment(cursor: HeaderCursor, metadata: dict[str, Any]) -> int:
    step = metadata.get("general.alignment", 32)
    if not isinstance(step, int) or step <= 0 or step & (step - 1):
        raise cursor.damaged(f"its general.alignment is {step}, which is not a power of two")
    return step


def _entry(cursor: HeaderCursor) -> tuple[str, tuple[int, ...], int, int]:
    """Reads a tensor's name, dimensions (ne order), ggml type number, and offset in bytes within the data."""
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
            "quantization, one of a fork (such as Q8_CR and Q4_CR), or a damaged file. Use "
            "a file quantized to Q2_K to Q8_0, IQ, F16, BF16 or F32."
        )
    stored = GGML_TYPES[number]
    block = LAYOUTS[stored].block
    shape = tuple(reversed(dimensions))
    if (shape[-1] if shape else 1) % block:
        raise cursor.damaged(
            f"the {stored} tensor {name} has the shape {list(shape)}, not possible in blocks of {block}"
        )
    original = _original_shape(cursor, name, shape, metadata)
    return FileTensor(name, stored, original, offset, tensor_bytes(stored, shape), cursor.path)


def _original_shape(
    cursor: HeaderCursor, name: str, shape: tuple[int, ...], metadata: dict[str, Any]
) -> tuple[int, ...]:
    """The shape (torch order) before ComfyUI-GGUF's converter reshaped it to fit quantized blocks; same bytes."""
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


class HeaderCursor:
    """A buffered position in the header of a file of `size` bytes, which never reads past the end of the file.

    label: the thing that is read, for messages. Every method raises WeightFileError where the file is too short.
    """

    def __init__(self, path: str, file: BinaryIO, size: int) -> None:
        self.path = path
        self._file, self._size = file, size
        self._chunk, self._start, self._at = b"", 0, 0  # buffered bytes, their offset in the file, the next to read

    @property
    def position(self) -> int:
        """Bytes from the start of the file."""
        return self._start + self._at

    def damaged(self, problem: str) -> WeightFileError:
        """The error for a header that contradicts itself."""
        return WeightFileError(f"{self.path}: {problem}. The file is damaged: download or copy it again.")

    def take(self, count: int, label: str) -> bytes:
        """Reads `count` bytes."""
        end = self._at + count
        if end > len(self._chunk):
            self._fill(count, label)
            end = count
        data = self._chunk[self._at : end]
        self._at = end
        return data

    def skip(self, count: int, label: str) -> None:
        """Skips `count` bytes without reading them."""
        if count > self._size - self.position:
            raise self._short(count, label)
        self._at += count

    def expect(self, count: int, least: int, label: str) -> None:
        """Checks that the rest of the file can hold `count` items of at least `least` bytes each."""
        if count * least > self._size - self.position:
            raise WeightFileError(
                f"{self.path} is {self._size:,} bytes long but its header announces {count:,} {label} from byte "
                f"{self.position:,} on. The file is incomplete or damaged: download or copy it again."
            )

    def number(self, layout: Struct, label: str) -> int:
        """Reads an integer."""
        return layout.unpack(self.take(layout.size, label))[0]

    def numbers(self, code: str, count: int, label: str) -> tuple[Any, ...]:
        """Reads `count` numbers of a struct module code."""
        layout = Struct(f"<{count}{code}")
        return layout.unpack(self.take(layout.size, label))

    def string(self, limit: int, label: str) -> str:
        """Reads a string, which must be printable UTF-8 of at most `limit` bytes."""
        length = self.number(U64, label)
        if length > limit:
            raise self.damaged(f"{label} at byte {self.position:,} is {length:,} bytes long, more than {limit:,}")
        text = self.take(length, label).decode(errors="replace")
        if not text.isprintable() or "\ufffd" in text:
            raise self.damaged(f"{label} at byte {self.position - length:,} is not text")
        return text

    def text(self, limit: int, label: str) -> str | None:
        """Reads a string, with undecodable bytes replaced; skips one of more than `limit` bytes and returns None."""
        length = self.number(U64, label)
        if length > limit:
            self.skip(length, label)
            return None
        return self.take(length, label).decode(errors="replace")

    def skip_strings(self, count: int, label: str) -> None:
        """Skips `count` strings; that the last one ends within the file is checked by the next read."""
        unpack = U64.unpack_from
        for _ in range(count):
            if self._at + 8 > len(self._chunk):
                self._fill(8, label)
            (length,) = unpack(self._chunk, self._at)
            self._at += 8 + length

    def _fill(self, count: int, label: str) -> None:
        """Buffers at least `count` bytes from the position on."""
        position = self.position
        if count > self._size - position:
            raise self._short(count, label)
        self._file.seek(position)
        self._chunk, self._start, self._at = self._file.read(max(count, CHUNK)), position, 0
        if len(self._chunk) < count:
            raise self._short(count, label)

    def _short(self, count: int, label: str) -> WeightFileError:
        return WeightFileError(
            f"{self.path} is {self._size:,} bytes long and ends inside its header: {label} takes {count:,} bytes from "
            f"byte {self.position:,} on. The file is incomplete or damaged: download or copy it again."
        )
