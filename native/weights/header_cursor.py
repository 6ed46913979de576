"""Reading a binary header front to back, never past the end of its file."""

from __future__ import annotations

from struct import Struct
from typing import Any, BinaryIO

from .weight_file import WeightFileError

CHUNK = 1 << 18  # bytes
LENGTH = Struct("<Q")


class HeaderCursor:
    """A position in a file of `size` bytes; every method raises WeightFileError where the file is too short."""

    def __init__(self, path: str, file: BinaryIO, size: int) -> None:
        self.path = path
        self._file, self._size = file, size
        self._chunk, self._start, self._at = b"", 0, 0  # bytes held, where they begin in the file, next one to read

    @property
    def position(self) -> int:
        """Bytes from the start of the file."""
        return self._start + self._at

    def damaged(self, what: str) -> WeightFileError:
        """The error for a header that contradicts itself."""
        return WeightFileError(f"{self.path}: {what}. The file is damaged: download or copy it again.")

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        end = self._at + count
        if end > len(self._chunk):
            self._fill(count, what)
            end = count
        taken = self._chunk[self._at : end]
        self._at = end
        return taken

    def skip(self, count: int, what: str) -> None:
        """Pass over `count` bytes without reading them."""
        if count > self._size - self.position:
            raise self._short(count, what)
        self._at += count

    def expect(self, count: int, least: int, what: str) -> None:
        """Check that `count` items of at least `least` bytes each can follow."""
        if count * least > self._size - self.position:
            raise WeightFileError(
                f"{self.path} is {self._size:,} bytes long but its header announces {count:,} {what} from byte "
                f"{self.position:,} on. The file is incomplete or damaged: download or copy it again."
            )

    def number(self, layout: Struct, what: str) -> int:
        """The next integer."""
        return layout.unpack(self.take(layout.size, what))[0]

    def numbers(self, code: str, count: int, what: str) -> tuple[Any, ...]:
        """The next `count` numbers of a struct module code."""
        layout = Struct(f"<{count}{code}")
        return layout.unpack(self.take(layout.size, what))

    def string(self, limit: int, what: str) -> str:
        """The next string, which must be printable UTF-8 of at most `limit` bytes."""
        length = self.number(LENGTH, what)
        if length > limit:
            raise self.damaged(f"{what} at byte {self.position:,} is {length:,} bytes long, more than {limit:,}")
        text = self.take(length, what).decode(errors="replace")
        if not text.isprintable() or "\ufffd" in text:
            raise self.damaged(f"{what} at byte {self.position - length:,} is not text")
        return text

    def text(self, limit: int, what: str) -> str | None:
        """The next string, undecodable bytes replaced; None when it is longer than `limit` bytes."""
        length = self.number(LENGTH, what)
        if length > limit:
            self.skip(length, what)
            return None
        return self.take(length, what).decode(errors="replace")

    def skip_strings(self, count: int, what: str) -> None:
        """Pass over `count` strings; that the last one ends in the file, the next read checks."""
        unpack = LENGTH.unpack_from
        for _ in range(count):
            if self._at + 8 > len(self._chunk):
                self._fill(8, what)
            (length,) = unpack(self._chunk, self._at)
            self._at += 8 + length

    def _fill(self, count: int, what: str) -> None:
        """Hold at least `count` bytes from the position on."""
        position = self.position
        if count > self._size - position:
            raise self._short(count, what)
        self._file.seek(position)
        self._chunk, self._start, self._at = self._file.read(max(count, CHUNK)), position, 0
        if len(self._chunk) < count:
            raise self._short(count, what)

    def _short(self, count: int, what: str) -> WeightFileError:
        return WeightFileError(
            f"{self.path} is {self._size:,} bytes long and ends inside its header: {what} takes {count:,} bytes from "
            f"byte {self.position:,} on. The file is incomplete or damaged: download or copy it again."
        )
