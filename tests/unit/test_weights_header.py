"""Opening weight files: what is not one, and what is remembered."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from native.weights import WeightFileError, header, read_header

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty (0 bytes)"),
        (b"GG", "neither GGUF nor safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"PK\x03\x04" + bytes(60), "pickle (.pt, .ckpt) or a zip archive"),
        (b"\x80\x02}q\x00" + bytes(60), "is a pickle"),
        (b"lmgg" + bytes(60), "older than GGUF"),
        (bytes(4096), "begins with zeros"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "begins with b'\\x89PNG"),
    ],
)
def test_files_that_hold_no_weights(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(WeightFileError) as caught:
        read_header(path)
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)


def test_a_missing_file_a_folder_and_an_impossible_name(tmp_path: Path) -> None:
    with pytest.raises(WeightFileError, match="does not exist"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(WeightFileError, match="is a folder"):
        read_header(tmp_path)
    with pytest.raises(WeightFileError, match="cannot be read"):
        read_header("a\0b.gguf")
    with pytest.raises(WeightFileError, match="cannot be read"):
        read_header(tmp_path / ("n" * 5000))


@pytest.mark.parametrize(
    ("error", "says"), [(PermissionError(13, "no"), "has no permission"), (OSError(5, "I/O"), "I/O")]
)
def test_a_file_that_the_system_refuses(
    write_gguf: Write, monkeypatch: pytest.MonkeyPatch, error: OSError, says: str
) -> None:
    path = write_gguf("model.gguf", {"a": ((4,), "F32")})

    def refuse(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(header, "open", refuse, raising=False)
    with pytest.raises(WeightFileError, match=says):
        read_header(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes in folders")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(WeightFileError, match="not an ordinary file"):
        read_header(tmp_path / "pipe.gguf")


def test_a_header_is_read_once_until_the_file_changes(write_gguf: Write) -> None:
    path = write_gguf("model.gguf", {"a": ((4,), "F32")})
    first = read_header(path)
    assert read_header(os.fspath(path)) is first
    os.utime(path, ns=(0, first.mtime_ns + 1_000_000_000))
    again = read_header(path)
    assert again is not first
    assert again.mtime_ns == first.mtime_ns + 1_000_000_000
    write_gguf("model.gguf", {"b": ((8,), "F32")})
    assert list(read_header(path).tensors) == ["b"]


def test_relative_paths_become_absolute(write_gguf: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf("model.gguf", {"a": ((4,), "F32")})
    monkeypatch.chdir(path.parent)
    assert read_header("model.gguf").path == str(path)
