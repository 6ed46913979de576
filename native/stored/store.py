"""A folder of entries by key, bounded in size; what cannot be read or written is as if it were not there."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from pathlib import Path
from time import time

from ..placement import MIB

log = logging.getLogger(__name__)
CAPACITY = 256 * MIB  # of all entries
LARGEST = 64 * MIB  # of an entry
_MAGIC = b"GGST1\n"  # then the digest of what follows
_ENDING, _PART = ".program", ".part"
_LEFT = 3600  # seconds after which an unfinished file is one that a process which ended has left


class Store:
    """Bytes by key. Several processes may use a folder at once."""

    def __init__(self, folder: Path, capacity: int = CAPACITY, largest: int = LARGEST) -> None:
        """folder: made when the first entry is written. capacity, largest: bytes, of all entries and of one."""
        self.folder = folder
        self.largest = largest
        self._capacity = capacity
        self._said = False

    def path(self, key: str) -> Path:
        """The file of an entry."""
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}{_ENDING}"

    def get(self, key: str) -> bytes | None:
        """The content of an entry, which is now the one used last; one that is damaged is removed."""
        path = self.path(key)
        try:
            if path.stat().st_size > self._capacity:
                raise ValueError
            held = path.read_bytes()
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self.remove(key)
            return None
        start = len(_MAGIC) + hashlib.sha256().digest_size
        content = held[start:]
        if held[:start] != _MAGIC + hashlib.sha256(content).digest():
            self.remove(key)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return content

    def put(self, key: str, content: bytes) -> None:
        """Write an entry as a whole or not at all, and remove those used least recently until there is room."""
        if len(content) > self.largest:
            return
        part = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(_PART, dir=self.folder)
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(content).digest())
                file.write(content)
            os.replace(part, self.path(key))
            self._trim(self.path(key))
        except OSError as error:
            if part is not None:
                with contextlib.suppress(OSError):
                    os.unlink(part)
            if not self._said:
                log.info("Programs cannot be kept in %s, so they are made anew in each session: %s", self.folder, error)
            self._said = True

    def remove(self, key: str) -> None:
        """Remove an entry, where that can be done."""
        with contextlib.suppress(OSError):
            self.path(key).unlink()

    def _trim(self, newest: Path) -> None:
        files = []
        for each in os.scandir(self.folder):
            with contextlib.suppress(OSError):  # removed by another process
                found = each.stat()
                if each.name.endswith(_ENDING):
                    files.append((found.st_mtime_ns, found.st_size, each.path))
                elif each.name.endswith(_PART) and found.st_mtime < time() - _LEFT:
                    os.unlink(each.path)
        held = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if held > self._capacity and path != str(newest):
                with contextlib.suppress(OSError):
                    os.unlink(path)
                held -= size
