"""What a weight file's header says: its tensors, where they lie, and what went wrong reading it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

MAX_NAME = 1024  # bytes or characters; ggml's own limit is 64, the longest known names have about 130


class WeightFileError(ValueError):
    """A weight file that cannot be used; the message is for the person at the node."""


@dataclass(frozen=True, slots=True)
class FileTensor:
    """One tensor as the file stores it."""

    name: str
    stored: str  # a type of types.LAYOUTS
    shape: tuple[int, ...]  # torch order
    offset: int  # bytes from the start of the file
    nbytes: int


@dataclass(frozen=True)
class WeightFile:
    """A weight file's header; `metadata` holds its scalars, strings and short arrays."""

    path: str
    size: int  # bytes
    mtime_ns: int
    format: Literal["gguf", "safetensors"]
    architecture: str | None
    metadata: dict[str, Any] = field(repr=False)
    tensors: dict[str, FileTensor] = field(repr=False)


def check_extents(path: str, size: int, tensors: Iterable[FileTensor]) -> None:
    """Raise WeightFileError unless every tensor lies inside the file and no two share bytes."""
    end, before = 0, ""
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset + tensor.nbytes > size:
            raise WeightFileError(
                f"{path} is {size:,} bytes long but its header places the tensor {tensor.name} at "
                f"{tensor.offset:,} to {tensor.offset + tensor.nbytes:,}. The file is incomplete or damaged: "
                "download or copy it again."
            )
        if tensor.nbytes and tensor.offset < end:
            raise WeightFileError(
                f"{path}: the header places the tensors {before} and {tensor.name} over each other at byte "
                f"{tensor.offset:,}. The file is damaged: download or copy it again."
            )
        if tensor.nbytes:
            end, before = tensor.offset + tensor.nbytes, tensor.name
