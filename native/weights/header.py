"""Reads the header of a weight file of either format, or says why the file is no weight file."""

from __future__ import annotations

import os
import stat
from functools import lru_cache

from .gguf import MAGIC, read_gguf
from .safetensors import read_safetensors
from .weight_file import WeightFile, WeightFileError, joined, shard_paths

CACHED_HEADERS = 32
NOT_WEIGHTS = (  # first bytes of files that people choose by mistake, and the message
    (b"version https://git-lfs", "is a Git LFS pointer, not the file it stands for. Download the file itself"),
    (b"<", "is a web page, not a model. Download the file itself, not the page that shows it"),
    (
        b"PK\x03\x04",
        "is a pickle (.pt, .ckpt) or a zip archive, not a plain weight file. Use a .safetensors or .gguf file",
    ),
    (b"\x80", "is a pickle (.pt, .ckpt), not a plain weight file. Use a .safetensors or .gguf file"),
    (b"lmgg", "is in a format older than GGUF. Use a current .gguf file"),
    (b"tjgg", "is in a format older than GGUF. Use a current .gguf file"),
    (b"\0\0\0\0", "begins with zeros, as an unfinished download does. Download it again"),
)


def read_header(path: str | os.PathLike[str]) -> WeightFile:
    """Reads the header of a GGUF or safetensors file, or of all files of the set that it is one of.

    Cached as long as sizes and modification times stay. Raises WeightFileError for a file that cannot be read, is of
    another format, or is damaged, and for a set that is not complete.
    """
    path = os.path.abspath(os.fspath(path))
    paths = shard_paths(path) or [path]
    missing = [each for each in paths if not os.path.exists(each)] if os.path.exists(path) else []
    if missing:
        raise WeightFileError(
            f"{path} is one of {len(paths)} files of a model, and {len(missing)} of them are missing, such as "
            f"{missing[0]}. Put all of them into this folder."
        )
    return _read(*map(_key, paths))


def _key(path: str) -> tuple[str, int, int]:
    """Path, size and modification time. Raises WeightFileError for what is no file with content."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not an ordinary file"
        raise WeightFileError(f"{path} is {kind}. Choose a .gguf or .safetensors file.")
    if status.st_size == 0:
        raise WeightFileError(f"{path} is empty (0 bytes). Download or copy it again.")
    return path, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=CACHED_HEADERS)
def _read(*files: tuple[str, int, int]) -> WeightFile:
    return joined([_read_file(*file) for file in files])


def _read_file(path: str, size: int, mtime_ns: int) -> WeightFile:
    try:
        with open(path, "rb") as file:
            beginning = file.read(32)
            file.seek(0)
            if beginning.startswith(MAGIC):
                return read_gguf(path, file, size, mtime_ns)
            if beginning[8:9] == b"{":
                return read_safetensors(path, file, size, mtime_ns)
    except OSError as error:
        raise _unreadable(path, error) from error
    for first_bytes, problem in NOT_WEIGHTS:
        if beginning.startswith(first_bytes):
            raise WeightFileError(f"{path} {problem}.")
    raise WeightFileError(
        f"{path} ({size:,} bytes) is neither GGUF nor safetensors: it begins with {beginning[:8]!r}. "
        "The file is damaged or of another format: choose a .gguf or .safetensors file."
    )


def _unreadable(path: str, error: OSError | ValueError) -> WeightFileError:
    if isinstance(error, FileNotFoundError):
        return WeightFileError(f"{path} does not exist. Put the file there or choose another one.")
    if isinstance(error, PermissionError):
        return WeightFileError(f"{path}: this user has no permission to read it. Change that, or choose another file.")
    return WeightFileError(f"{path} cannot be read: {error}. Check the disk and the path, or choose another file.")
