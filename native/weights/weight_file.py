"""The header of a weight file, as both formats' readers return it, and the error that they raise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

MAX_NAME = 1024  # bytes or characters; ggml's own limit is 64, the longest known names have about 130


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


@dataclass(frozen=True)
class WeightFile:
    """The header of a weight file."""

    path: str
    size: int  # bytes
    mtime_ns: int
    format: Literal["gguf", "safetensors"]
    architecture: str | None  # as the file names it
    metadata: dict[str, Any] = field(repr=False)  # scalars, strings and short arrays
    tensors: dict[str, FileTensor] = field(repr=False)  # by name


def check_extents(path: str, size: int, tensors: Iterable[FileTensor]) -> None:
    """Checks that every tensor is within a file of `size` bytes and no two overlap. Raises WeightFileError."""
    end, previous = 0, ""
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset + tensor.nbytes > size:
            raise WeightFileError(
                f"{path} is {size:,} bytes long but its header places the tensor {tensor.name} at "
                f"{tensor.offset:,} to {tensor.offset + tensor.nbytes:,}. The file is incomplete or damaged: "
                "download or copy it again."
            )
        if tensor.nbytes and tensor.offset < end:
            raise WeightFileError(
                f"{path}: the header places the tensors {previous} and {tensor.name} over each other at byte "
                f"{tensor.offset:,}. The file is damaged: download or copy it again."
            )
        if tensor.nbytes:
            end, previous = tensor.offset + tensor.nbytes, tensor.name
