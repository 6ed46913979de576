"""GGUF headers: what the gguf package's own reader says, and every way of being wrong."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from native.ggml_types import GGML_TYPES
from native.weights import WeightFileError, read_header

Write = Callable[..., Path]
F32, Q8_0 = 0, 8


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(name: str, dimensions: tuple[int, ...] = (4,), number: int = F32, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, number, offset)


def header(
    *entries: bytes, metadata: tuple[bytes, ...] = (), version: int = 3, counts: tuple[int, int] | None = None
) -> bytes:
    tensors, keys = counts or (len(entries), len(metadata))
    whole = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(metadata) + b"".join(entries)
    return whole + bytes(-len(whole) % 32)


def array(key: str, kind: int, count: int, data: bytes = b"") -> bytes:
    return text(key) + struct.pack("<IIQ", 9, kind, count) + data


def number(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def refused(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(WeightFileError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


# The package still gives Q8_1 the 40 bytes of an older ggml; tests/parity compares it with ggml itself.
TYPES = [name for name in GGML_TYPES.values() if name != "Q8_1"]


def test_no_type_of_the_gguf_package_is_unknown() -> None:
    assert {kind.value: kind.name for kind in gguf.GGMLQuantizationType} == GGML_TYPES


def test_every_type_is_found_where_the_gguf_package_finds_it(write_gguf: Write) -> None:
    path = write_gguf("all.gguf", {f"t.{name}": ((3, 512), name) for name in TYPES}, "flux")
    ours = read_header(path)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert ours.format == "gguf"
    assert ours.architecture == "flux"
    assert ours.tensors.keys() == theirs.keys()
    for name, tensor in ours.tensors.items():
        expected = theirs[name]
        assert tensor.stored == expected.tensor_type.name
        assert tensor.shape == (3, 512)
        assert (tensor.offset, tensor.nbytes) == (expected.data_offset, expected.n_bytes)


def test_version_2_is_read_as_version_3(write_gguf: Write) -> None:
    path = write_gguf("model.gguf", {"a": ((4, 32), "Q4_0")})
    current = read_header(path).tensors
    content = bytearray(path.read_bytes())
    content[4:8] = struct.pack("<I", 2)
    path.write_bytes(content)
    assert read_header(path).tensors == current


def test_short_arrays_are_kept_and_tokenizers_passed_over(write_gguf: Write) -> None:
    arrays = {
        "short": [1, 2, 3],
        "names": ["a", "b"],
        "tokens": ["x" * (n % 70) for n in range(9000)],
        "scores": [0.5] * 99,
    }
    metadata = read_header(write_gguf("model.gguf", {"a": ((4,), "F32")}, arrays=arrays)).metadata
    assert metadata == {"general.architecture": "test", "short": [1, 2, 3], "names": ["a", "b"]}


def test_strings_longer_than_the_chunk_that_is_read_at_a_time(write_gguf: Write) -> None:
    arrays = {"tokens": ["y" * 300_000] * 70}
    assert "a" in read_header(write_gguf("model.gguf", {"a": ((4,), "F32")}, arrays=arrays)).tensors


def test_alignment_moves_the_data(tmp_path: Path) -> None:
    content = header(entry("a"), metadata=(number("general.alignment", 4096),))
    path = tmp_path / "aligned.gguf"
    path.write_bytes(content.ljust(4096, b"\0") + bytes(16))
    assert read_header(path).tensors["a"].offset == 4096


def test_original_shapes_of_folded_tensors(write_gguf: Write) -> None:
    tensors = {"conv": ((9, 256), "Q4_K"), "plain": ((9, 256), "Q4_K")}
    path = write_gguf("model.gguf", tensors, arrays={"comfy.gguf.orig_shape.conv": [4, 64, 3, 3]})
    found = read_header(path).tensors
    assert found["conv"].shape == (4, 64, 3, 3)
    assert found["plain"].shape == (9, 256)
    assert found["conv"].nbytes == found["plain"].nbytes == 9 * 144


@pytest.mark.parametrize("shape", [[4, 64, 3], [-4, -64, 3, 3], [2304.0], ["a"]])
def test_impossible_original_shapes(write_gguf: Write, shape: list[object]) -> None:
    path = write_gguf("model.gguf", {"conv": ((9, 256), "Q4_K")}, arrays={"comfy.gguf.orig_shape.conv": shape})
    with pytest.raises(WeightFileError, match="original shape"):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (header(entry("a"), version=1), "GGUF version 1;"),
        (header(entry("a"), version=4), "GGUF version 4;"),
        (header(entry("a"), version=0x03000000), "big-endian"),
        (header(), "holds no tensors"),
        (header(entry("a"), counts=(1 << 62, 0)), "announces 4,611,686,018,427,387,904 tensors"),
        (header(entry("a"), counts=(1, 1 << 62)), "announces 4,611,686,018,427,387,904 metadata entries"),
        (header(entry("a"), metadata=(array("k", 8, 1 << 60),)), "strings of k"),
        (header(entry("a"), metadata=(array("k", 6, 1 << 60),)), "k takes 4,611,686,018,427,387,904 bytes"),
        (header(entry("a"), metadata=(array("k", 9, 1, bytes(12)),)), "array of the type 9"),
        (header(entry("a"), metadata=(text("k") + struct.pack("<I", 13),)), "unknown type 13"),
        (header(entry("a"), metadata=(number("k", 1), number("k", 1))), "'k' is empty or listed twice"),
        (header(entry("a"), metadata=(number("", 1),)), "'' is empty or listed twice"),
        (header(entry("a"), metadata=(struct.pack("<Q", 1025) + bytes(2000),)), "1,025 bytes long"),
        (header(entry("a"), metadata=(struct.pack("<Q", 1) + b"\xff" + bytes(9),)), "is not text"),
        (header(entry("a\nb")), "is not text"),
        (header(entry("a"), metadata=(number("general.alignment", 24),)), "alignment is 24"),
        (header(entry("a"), metadata=(number("general.alignment", 0),)), "alignment is 0"),
        (header(entry("a"), metadata=(number("split.count", 3),)), "its name does not say which"),
        (header(entry("a"), entry("a", offset=32)) + bytes(64), "tensor a is listed twice"),
        (header(entry("a"), entry("b", offset=24)) + bytes(64), "lies at 24"),
        (header(entry("a", (16,)), entry("b", offset=32)) + bytes(64), "tensors a and b over each other"),
        (header(entry("a"), entry("b", offset=64)) + bytes(96), "a gap of 32 bytes between a and b at byte 128"),
        (header(entry("a", offset=32)) + bytes(64), "a gap of 32 bytes between the header and a at byte 64"),
        (header(entry("a", offset=32), entry("b")) + bytes(64), "a gap of 32 bytes between the header and a"),
        (header(entry("a", (32,), Q8_0), entry("b", offset=128)) + bytes(256), "a gap of 64 bytes between a and b"),
        (header(entry("a", (4, 2, 2, 2, 2, 2))) + bytes(512), "6 dimensions"),
        (header(entry("a", (4, 5 * 10**18))), "places the tensor a at"),
        (header(entry("a", (33,), Q8_0)) + bytes(64), "[33], not possible in blocks of 32"),
        (header(entry("a", (4,), 31)) + bytes(16), "ggml type 31"),
        (header(entry("a", (1 << 63, 1 << 63))), "places the tensor a at"),
        (header(entry("a", offset=1 << 63)), "places the tensor a at"),
        (header(entry("a")) + bytes(15), "is 79 bytes long but its header places the tensor a at 64 to 80"),
    ],
)
def test_refused(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in refused(tmp_path, content)


@pytest.mark.parametrize("number", [number for number, name in GGML_TYPES.items() if name not in ("F32", "I32")])
def test_a_type_that_is_not_that_of_the_data_is_refused(tmp_path: Path, number: int) -> None:
    """As ggml's gguf.cpp does, which wants each tensor where the one before it ends."""
    whole = header(entry("a", (256, 3)), entry("b", offset=3072)) + bytes(3072 + 16)
    refused(tmp_path, whole.replace(entry("a", (256, 3)), entry("a", (256, 3), number)))


def test_bytes_behind_the_last_tensor_are_taken(tmp_path: Path) -> None:
    """ggml's own reader takes them, and lacks no padding behind the last tensor."""
    for data in (16, 32, 4096):
        path = tmp_path / f"{data}.gguf"
        path.write_bytes(header(entry("a")) + bytes(data))
        assert read_header(path).tensors["a"].offset == 64


def test_an_empty_tensor_is_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "marked.gguf"
    path.write_bytes(header(entry("__index_timestep_zero__", (0,)), entry("a")) + bytes(16))
    marked = read_header(path).tensors["__index_timestep_zero__"]
    assert (marked.shape, marked.nbytes) == ((0,), 0)


def test_a_vocabulary_of_millions_of_empty_strings_is_refused(tmp_path: Path) -> None:
    count = (1 << 22) + 1
    path = tmp_path / "zeros.gguf"
    with path.open("wb") as file:
        file.write(header(entry("a"), metadata=(array("k", 8, count),)))
        file.truncate(count * 8 + 1000)
    with pytest.raises(WeightFileError, match="4,194,305 strings"):
        read_header(path)


@pytest.mark.parametrize("last", [0, 1])
def test_a_string_passed_over_beyond_the_end(tmp_path: Path, last: int) -> None:
    strings = [struct.pack("<Q", 0)] * 65
    strings[64 * last] = struct.pack("<Q", 1 << 63)
    content = header(entry("a"), metadata=(array("k", 8, 65, b"".join(strings)),)) + bytes(16)
    assert "ends inside its header" in refused(tmp_path, content)


def test_truncated_at_every_byte(write_gguf: Write, tmp_path: Path) -> None:
    tensors = {"a.weight": ((4, 32), "Q8_0"), "b.weight": ((8,), "F32")}
    arrays = {"tokens": ["ab", "", "cde"] * 30, "numbers": [1, 2], "names": ["p", "q"]}
    content = write_gguf("whole.gguf", tensors, arrays=arrays).read_bytes()
    for length in range(len(content)):
        refused(tmp_path, content[:length])


def test_the_file_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from native.weights import gguf as reader

    content = header(entry("a" * 60)) + bytes(64)
    path = tmp_path / "model.gguf"
    path.write_bytes(content[:40])
    with path.open("rb") as file, pytest.raises(WeightFileError, match="ends inside its header"):
        reader.read_gguf(str(path), file, len(content), 0)


def test_random_content_reads_back_in_torch_order(write_gguf: Write) -> None:
    path = write_gguf("model.gguf", {"a": ((2, 3, 5), "F32")})
    tensor = read_header(path).tensors["a"]
    values = np.fromfile(path, np.float32, 30, offset=tensor.offset).reshape(tensor.shape)
    np.testing.assert_array_equal(values, np.random.default_rng(1).standard_normal((2, 3, 5)).astype(np.float32))
