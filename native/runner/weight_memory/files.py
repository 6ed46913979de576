"""The source of a weight set's bytes: its files mapped into memory, or no files at all."""

from __future__ import annotations

import mmap
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ...errors import Interrupted, RunnerError
from ...weights.convert import convert, pieces
from ...weights.weight_file import WeightFileError
from ...weights.weight_set import Parameter, WeightSet, check_unchanged

PIECE = 16 << 20  # bytes; the most private memory that an upload holds
Progress = Callable[[int, int], None]  # bytes done, and in all


class WeightsError(RunnerError):
    """A weight file that is gone, has changed, or does not hold what its header said."""


class Piece(NamedTuple):
    """A part of a weight in the type it is loaded in."""

    data: np.ndarray
    offset: int  # bytes into the tensor
    stored_bytes: int  # of the file, that it was made of


class FileSource(ABC):
    """Where the bytes of a weight set's parameters come from."""

    def __init__(self, weights: WeightSet) -> None:
        self._weights = weights

    @abstractmethod
    def check(self) -> None:
        """Raise WeightsError when a file is no longer what its header said."""

    @abstractmethod
    def open(self) -> None:
        """Make the files' bytes available; raises WeightsError as `check`, or when a file cannot be mapped."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what was opened."""

    @abstractmethod
    def whole(self, path: str) -> np.ndarray:
        """All bytes of a file, in place."""

    @abstractmethod
    def stored(self, parameter: Parameter) -> np.ndarray:
        """The bytes of a weight of one run as its file has them, in place."""

    @abstractmethod
    def converted(self, parameter: Parameter) -> Iterator[Piece]:
        """The pieces of a weight, each converted when it is its turn."""

    @abstractmethod
    def release(self, parameter: Parameter) -> None:
        """Give the pages of a weight that was read back to the system."""


class MappedFiles(FileSource):
    """Files on disk, whose pages the system reads as they are touched."""

    def __init__(self, weights: WeightSet) -> None:
        super().__init__(weights)
        self._maps: dict[str, mmap.mmap] = {}

    def check(self) -> None:
        """As FileSource.check."""
        try:
            check_unchanged(self._weights)
        except WeightFileError as error:
            raise WeightsError(str(error)) from error

    def open(self) -> None:
        """As FileSource.open."""
        self.check()
        self._maps = {path: _map(path) for path, _, _ in self._weights.files}

    def close(self) -> None:
        """As FileSource.close."""
        self._maps.clear()

    def whole(self, path: str) -> np.ndarray:
        """As FileSource.whole."""
        return np.frombuffer(self._maps[path], np.uint8)

    def stored(self, parameter: Parameter) -> np.ndarray:
        """As FileSource.stored."""
        (run,) = parameter.runs
        return self._read(run.path, run.offset, run.nbytes)

    def converted(self, parameter: Parameter) -> Iterator[Piece]:
        """As FileSource.converted; what needs no conversion stays in place."""
        unchanged = all(run.is_as_loaded(parameter.type) for run in parameter.runs)
        for piece in pieces(parameter, PIECE) if unchanged else pieces(parameter):
            try:
                loaded = convert(parameter.type, piece.run, self._read)
            except WeightFileError as error:
                raise WeightsError(str(error)) from error
            assert loaded.nbytes == piece.target_nbytes
            yield Piece(loaded, piece.target, piece.run.stored_bytes)

    def release(self, parameter: Parameter) -> None:
        """As FileSource.release."""
        if sys.platform == "linux":  # these pages were read once and count as ours until they are let go
            for run in parameter.runs:
                first = -(-run.offset // mmap.PAGESIZE) * mmap.PAGESIZE
                size = (run.offset + run.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
                if size > 0:
                    self._maps[run.path].madvise(mmap.MADV_DONTNEED, first, size)

    def _read(self, path: str, offset: int, nbytes: int) -> np.ndarray:
        return self.whole(path)[offset : offset + nbytes]


class AbsentFiles(FileSource):
    """No files: nothing is opened, checked or read, and no weight has any bytes."""

    def check(self) -> None:
        """Nothing: the client has read the headers."""

    def open(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def whole(self, path: str) -> np.ndarray:
        """No bytes."""
        return np.empty(0, np.uint8)

    def stored(self, parameter: Parameter) -> np.ndarray:
        """No bytes."""
        return np.empty(0, np.uint8)

    def converted(self, parameter: Parameter) -> Iterator[Piece]:
        """No pieces."""
        return iter(())

    def release(self, parameter: Parameter) -> None:
        """Nothing."""


class LoadProgress:
    """Adds up the bytes of the files that are loaded."""

    def __init__(self, label: str, total: int, progress: Progress, interrupted: Callable[[], bool]) -> None:
        """label: what is loaded, for the message of Interrupted. total: bytes that there are to load."""
        self._label = label
        self._total = total
        self._progress = progress
        self._interrupted = interrupted
        self._done = 0

    def check(self) -> None:
        """Raise Interrupted where the client wants no more of it."""
        if self._interrupted():
            raise Interrupted(f"loading {self._label} was interrupted")

    def advance(self, nbytes: int) -> None:
        """Note bytes that are loaded."""
        self._done += nbytes
        self._progress(self._done, self._total)


def _map(path: str) -> mmap.mmap:
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be mapped: {error}. Choose the file again.") from error
