"""Conversion of stored bytes, against torch's casts and the gguf package."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from native.engines.torch_cpu import weight_reader
from native.ggml_types import LAYOUTS, QUANTIZED
from native.weights import (
    Parameter,
    Run,
    WeightFileError,
    WeightSet,
    convert,
    pieces,
    read_header,
    read_parameter,
    read_rows,
)
from native.weights.runs import between
from native.weights.weight_set import parameter_of

Write = Callable[..., Path]
F8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
NOT_IN_GGUF_PACKAGE = {"Q1_0"}


def parameter(path: Path, name: str, scale: float = 1.0) -> Parameter:
    header = read_header(path)
    return parameter_of(header, header.tensors[name], name, scale)


def loaded(held: Parameter, limit: int) -> np.ndarray:
    """The loaded tensor's bytes, put together from pieces as the runner does."""
    whole = Path(held.path).read_bytes()
    result = np.full(held.weight_bytes, 0xEE, np.uint8)
    for piece in pieces(held, limit):
        part = convert(held.type, piece.run, lambda _, offset, nbytes: whole[offset : offset + nbytes])
        assert part.nbytes == piece.target_nbytes
        result[piece.target : piece.target + piece.target_nbytes] = part.view(np.uint8)
    return result


@pytest.mark.parametrize("stored", F8)
def test_every_f8_value_is_torchs(tmp_path: Path, stored: str) -> None:
    path = tmp_path / "f8.safetensors"
    every = torch.arange(256, dtype=torch.uint8).reshape(4, 64).view(F8[stored])
    save_file({"a": every}, path)
    held = parameter(path, "a")
    assert (held.stored, held.type) == (stored, "F16")
    np.testing.assert_array_equal(read_parameter(held), every.float().numpy())
    np.testing.assert_array_equal(loaded(held, 100).view(np.float16).reshape(4, 64), every.half().numpy())


@pytest.mark.parametrize("stored", F8)
@pytest.mark.parametrize("scale", [0.0123, 900.0])
def test_scaled_f8_is_multiplied_in_f32(tmp_path: Path, stored: str, scale: float) -> None:
    path = tmp_path / "f8.safetensors"
    every = torch.arange(256, dtype=torch.uint8).reshape(4, 64).view(F8[stored])
    save_file({"a": every}, path)
    held = parameter(path, "a", scale)
    expected = every.float() * torch.tensor(scale, dtype=torch.float32)
    np.testing.assert_array_equal(read_parameter(held), expected.numpy())
    dtype = {"F16": torch.float16, "F32": torch.float32}[held.type]
    got = torch.frombuffer(bytearray(loaded(held, 1 << 20)), dtype=dtype).reshape(4, 64)
    torch.testing.assert_close(got, expected.to(dtype), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.isinf(got), torch.isinf(every.float()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(96,), (3, 32), (3, 4, 4, 2)])
def test_plain_types_are_torchs(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    path = tmp_path / "plain.safetensors"
    values = (torch.randn(shape, dtype=torch.float64) * 1e3).to(dtype)
    save_file({"a": values}, path)
    held = parameter(path, "a")
    np.testing.assert_array_equal(read_parameter(held), values.float().numpy())
    kept = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[held.type]
    expected = values.to(kept).view(torch.uint8).numpy().reshape(-1)
    for limit in (1, 40, 1 << 20):
        np.testing.assert_array_equal(loaded(held, limit), expected)


@pytest.mark.parametrize("stored", sorted(QUANTIZED - NOT_IN_GGUF_PACKAGE))
def test_quantized_types_are_the_gguf_packages(write_gguf: Write, stored: str) -> None:
    path = write_gguf("model.gguf", {"a": ((7, 768), stored), "conv": ((6, 128, 1, 2), "F32")})
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "a")
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    held = parameter(path, "a")
    assert held.type == stored
    np.testing.assert_array_equal(loaded(held, 1000), tensor.data.reshape(-1))
    np.testing.assert_array_equal(read_parameter(held), expected)
    convolution = replace(held, shape=(7, 64, 3, 4), type="F32")
    for limit in (1, 5000, 1 << 20):
        np.testing.assert_array_equal(loaded(convolution, limit).view(np.float32).reshape(7, 768), expected)


def test_a_type_the_gguf_package_cannot_read_is_named(write_gguf: Write) -> None:
    held = parameter(write_gguf("model.gguf", {"a": ((2, 128), "Q1_0")}), "a")
    with pytest.raises(WeightFileError, match="cannot read Q1_0 weights"):
        read_parameter(held)


@pytest.mark.parametrize("stored", ["F32", "F16", "BF16", "Q8_0", "Q5_K"])
def test_rows_are_those_of_the_whole(write_gguf: Write, stored: str) -> None:
    held = parameter(write_gguf("model.gguf", {"before": ((5,), "F32"), "a": ((9, 512), stored)}), "a")
    rows = [8, 0, 3, 3, 8]
    np.testing.assert_array_equal(read_rows(held, rows), read_parameter(held)[rows])
    assert read_rows(held, []).shape == (0, 512)
    for wrong in ([9], [-1]):
        with pytest.raises(IndexError, match="9 rows"):
            read_rows(held, wrong)


def test_rows_that_share_blocks(write_gguf: Write) -> None:
    arrays = {"comfy.gguf.orig_shape.a": [32, 24]}
    held = parameter(write_gguf("model.gguf", {"a": ((3, 256), "Q4_K")}, arrays=arrays), "a")
    np.testing.assert_array_equal(read_rows(held, [31, 5]), read_parameter(held)[[31, 5]])


def test_a_file_cut_short_after_its_header_was_read(write_gguf: Write) -> None:
    path = write_gguf("model.gguf", {"a": ((64, 512), "Q8_0")})
    held = parameter(path, "a")
    end = held.runs[0].offset + 100
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(WeightFileError, match=f"ends at byte {end:,}, inside the tensor of a"):
        read_parameter(held)
    path.unlink()
    with pytest.raises(WeightFileError, match="can no longer be read"):
        read_rows(held, [0])


@pytest.mark.parametrize("stored", ["Q4_K", "IQ3_S", "BF16", "F16", "F8_E4M3"])
def test_conversion_in_pieces_takes_little_memory(write_gguf: Write, stored: str) -> None:
    held = parameter(write_gguf("model.gguf", {"a": ((1, 256), "F32")}), "a")
    layout = LAYOUTS[stored]
    run = Run("", stored, 0, (64 << 18) // layout.block * layout.nbytes)
    large = replace(held, runs=(run,), type="F32", shape=(64, 1024, 256))  # 64 MiB loaded

    def zeros(path: str, offset: int, nbytes: int) -> bytes:
        return bytes(nbytes)

    convert("F32", next(pieces(large, 1)).run, zeros)  # imports and lookup tables
    tracemalloc.start()
    for piece in pieces(large):
        convert("F32", piece.run, zeros)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20


@pytest.mark.parametrize("stored", ["Q8_0", "F16", "BF16"])
def test_parts_at_a_distance(write_gguf: Write, stored: str) -> None:
    """Rows as llama.cpp has those of queries and keys: the halves of each head's rows take turns."""
    held = parameter(write_gguf("model.gguf", {"a": ((16, 64), stored)}), "a")
    (run,) = held.runs
    row = run.nbytes // 16
    places = [(head * 8 + half) * row for head in range(2) for half in range(2)]
    runs = tuple(replace(run, offset=run.offset + at, nbytes=row, parts=4, stride=2 * row) for at in places)
    permuted = replace(held, runs=runs)
    whole = read_parameter(held)
    expected = whole.reshape(2, 4, 2, 64).swapaxes(1, 2).reshape(16, 64)
    np.testing.assert_array_equal(read_parameter(permuted), expected)
    np.testing.assert_array_equal(read_rows(permuted, [5, 1, 11]), expected[[5, 1, 11]])
    assert len(loaded(permuted, 100)) == permuted.weight_bytes == held.weight_bytes
    for limit in (100, 1 << 20):
        np.testing.assert_array_equal(
            loaded(permuted, limit), loaded(held, 1 << 20).reshape(2, 4, 2, -1).swapaxes(1, 2).reshape(-1)
        )
    cut = tuple(between(runs, 2 * 64, 9 * 64))
    np.testing.assert_array_equal(read_parameter(replace(held, shape=(7, 64), runs=cut)), expected[2:9])
    size = Path(held.path).stat()
    read = weight_reader.Values(WeightSet("", {"a": permuted}, ((held.path, size.st_size, size.st_mtime_ns),)))
    np.testing.assert_array_equal(torch.cat([x.clone() for _, x in read.by_rows("a", torch.float32)]).numpy(), expected)
    read.close()
