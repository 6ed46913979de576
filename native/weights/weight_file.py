"""The header of a weight file, as both formats' readers return it, and the error that they raise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

MAX_NAME = 1024  # bytes or characters; ggml's own limit is 64, the longest known names have about 130
# As llama.cpp's gguf-split, transformers and diffusers name them: the part's number from 1 on, and how many there are.
SHARD = re.compile(r"(.*-)(\d{5})(-of-)(\d{5})(\.(?:gguf|safetensors|sft))", re.IGNORECASE | re.DOTALL)


class WeightFileError(ValueError):
    """A weight file that cannot be used. The message is for the user: file, problem, what to do."""


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor as the file stores it."""

    name: str
    stored: str  # a type of ggml_types.LAYOUTS
    shape: tuple[int, ...]  # torch order
    offset: int  # bytes from the start of the file
    nbytes: int
    path: str


@dataclass(frozen=True)
class WeightFile:
    """The header of a weight file, or of a model in several files."""

    path: str  # for messages; of several files the first
    size: int  # bytes
    mtime_ns: int
    format: Literal["gguf", "safetensors"]
    architecture: str | None  # as the file names it
    metadata: dict[str, Any] = field(repr=False)  # scalars, strings and short arrays
    tensors: dict[str, FileTensor] = field(repr=False)  # by name
    more: tuple[tuple[str, int, int], ...] = ()  # path, size and mtime_ns of the other files

    @property
    def files(self) -> tuple[tuple[str, int, int], ...]:
        """Path, size in bytes and modification time in ns of each file."""
        return ((self.path, self.size, self.mtime_ns), *self.more)

    @property
    def texts(self) -> dict[str, str]:
        """The metadata that are strings, as ComfyUI reads them."""
        return {key: value for key, value in self.metadata.items() if isinstance(value, str)}


def shard_paths(path: str) -> list[str]:
    """The paths of all files of the set that a file is one of, in order; none where its name says that it is whole."""
    found = SHARD.fullmatch(path)
    if not found or not 1 <= int(found[2]) <= int(found[4]):
        return []
    stem, _, of, count, ending = found.groups()
    return [f"{stem}{number:05}{of}{count}{ending}" for number in range(1, int(count) + 1)]


def joined(headers: Sequence[WeightFile]) -> WeightFile:
    """The header of a model whose tensors are in several files. Raises WeightFileError for a tensor that two have."""
    first, *others = headers
    tensors, metadata = dict(first.tensors), dict(first.metadata)
    for other in others:
        twice = tensors.keys() & other.tensors.keys()
        if twice:
            raise WeightFileError(
                f"{first.path} and {other.path} both hold {min(twice)}: they are not parts of one model. "
                "Download both again, or choose other files."
            )
        tensors |= other.tensors
        metadata = other.metadata | metadata
    more = tuple(file for header in others for file in header.files)
    return replace(first, tensors=tensors, metadata=metadata, more=first.more + more)


def check_extents(path: str, size: int, tensors: Iterable[FileTensor], start: int, step: int = 1) -> int:
    """Checks that the tensors lie in this order from byte `start` on, each at the next multiple of `step` after it.

    size: bytes of the file. Returns where the last one ends. Raises WeightFileError for a gap, an overlap, or a tensor
    beyond the end of the file.
    """
    end, previous = start, "the header"
    for tensor in tensors:
        due = start + -(-(end - start) // step) * step
        if tensor.offset + tensor.nbytes > size:
            raise WeightFileError(
                f"{path} is {size:,} bytes long but its header places the tensor {tensor.name} at "
                f"{tensor.offset:,} to {tensor.offset + tensor.nbytes:,}. The file is incomplete or damaged: "
                "download or copy it again."
            )
        if tensor.offset < due:
            raise WeightFileError(
                f"{path}: the header places the tensors {previous} and {tensor.name} over each other at byte "
                f"{tensor.offset:,}. The file is damaged: download or copy it again."
            )
        if tensor.offset > due:
            raise WeightFileError(
                f"{path}: the header leaves a gap of {tensor.offset - due:,} bytes between {previous} and "
                f"{tensor.name} at byte {due:,}. A type or shape in it is wrong, the file is damaged: download or copy "
                "it again."
            )
        end, previous = tensor.offset + tensor.nbytes, tensor.name
    return end
