"""Reads safetensors headers. Format: the README of the safetensors repository."""

from __future__ import annotations

import json
from math import prod
from struct import Struct
from typing import Any, BinaryIO, TypeGuard

from ..ggml_types import LAYOUTS, tensor_bytes
from .weight_file import MAX_NAME, FileTensor, WeightFile, WeightFileError, check_extents

LENGTH = Struct("<Q")
MAX_HEADER = 100_000_000  # bytes, the format's own limit
MAX_DIMENSIONS = 8


def read_safetensors(path: str, file: BinaryIO, size: int, mtime_ns: int) -> WeightFile:
    """Reads the header of an open safetensors file of `size` bytes. Raises WeightFileError."""
    header = file.read(LENGTH.size)
    length = LENGTH.unpack(header)[0] if len(header) == LENGTH.size else 0
    data = LENGTH.size + length
    if length < 2 or length > MAX_HEADER or data > size:
        raise _damaged(path, f"is {size:,} bytes long but announces a header of {length:,} bytes")
    entries = _entries(path, file.read(length))
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _damaged(path, "has metadata that are not a JSON object")
    tensors = {name: _tensor(path, name, entry, data) for name, entry in entries.items()}
    if not tensors:
        raise WeightFileError(f"{path} holds no tensors. Choose a model file.")
    # As the safetensors package: Metadata::validate and SafeTensors::read_metadata in its tensor.rs.
    end = check_extents(path, size, sorted(tensors.values(), key=lambda each: (each.offset, each.nbytes)), data)
    if end < size:
        raise _damaged(path, f"is {size:,} bytes long but its header describes {end:,}")
    architecture = metadata.get("modelspec.architecture")
    return WeightFile(
        path, size, mtime_ns, "safetensors", architecture if isinstance(architecture, str) else None, metadata, tensors
    )


def _entries(path: str, header: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(header, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"has a header that is not JSON ({error})") from error
    if not isinstance(entries, dict):
        raise _damaged(path, "has a header that is not a JSON object")
    return entries


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name is listed twice")
    return fields


def _tensor(path: str, name: str, entry: Any, data: int) -> FileTensor:
    """One entry `{"dtype", "shape", "data_offsets"}`, offsets counted from byte `data` of the file."""
    if len(name) > MAX_NAME or not name.isprintable():
        raise _damaged(path, f"calls a tensor {name[:80]!r}, which is not a name")
    if not isinstance(entry, dict):
        raise _damaged(path, f"describes the tensor {name} by {entry!r:.80}")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise _damaged(path, f"describes the tensor {name} by shape {shape!r:.80} and offsets {offsets!r:.80}")
    if not isinstance(dtype, str) or dtype not in LAYOUTS or LAYOUTS[dtype].block > 1:
        raise WeightFileError(
            f"{path}: the tensor {name} is stored as {dtype!r:.40}, which is not read here. Use a GGUF file or a "
            "safetensors file in F32, F16, BF16 or FP8."
        )
    begin, end = offsets
    nbytes = tensor_bytes(dtype, tuple(shape))
    if end - begin != nbytes:
        raise _damaged(
            path, f"gives {end - begin:,} bytes to the {dtype} tensor {name} {shape}, which takes {nbytes:,}"
        )
    if prod(length or 1 for length in shape) >= 1 << 63:
        raise _damaged(path, f"describes the tensor {name} by the shape {shape}, which no tensor can have")
    return FileTensor(name, dtype, tuple(shape), data + begin, nbytes, path)


def _naturals(value: Any) -> TypeGuard[list[int]]:
    if not isinstance(value, list) or len(value) > MAX_DIMENSIONS:
        return False
    return all(type(number) is int and 0 <= number < 1 << 63 for number in value)


def _damaged(path: str, problem: str) -> WeightFileError:
    return WeightFileError(f"{path} {problem}. The file is incomplete or damaged: download or copy it again.")
