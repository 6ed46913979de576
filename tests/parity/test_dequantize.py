"""Weights as this pack reads them in Python, against ggml itself."""

from __future__ import annotations

import ctypes
from pathlib import Path

import ggml
import gguf
import numpy as np
import pytest

from native.ggml_types import GGML_TYPES, LAYOUTS, QUANTIZED
from native.weights import read_header, read_parameter, read_rows
from native.weights.weight_set import parameter_of

ROWS, COLUMNS = 48, 1024
NOT_IN_GGUF_PACKAGE = {"Q1_0"}


@pytest.mark.parametrize("name", GGML_TYPES.values())
def test_every_type_is_laid_out_as_in_ggml(name: str) -> None:
    layout = LAYOUTS[name]
    assert layout.number is not None
    assert ggml.ggml_type_name(layout.number).decode().upper() == name
    assert ggml.ggml_blck_size(layout.number) == layout.block
    assert ggml.ggml_type_size(layout.number) == layout.nbytes


def test_no_type_of_ggml_is_unknown() -> None:
    named = {number for number in range(ggml.GGML_TYPE_COUNT) if ggml.ggml_type_size(number)}
    assert named == set(GGML_TYPES)


def quantized(number: int, values: np.ndarray) -> np.ndarray:
    """ggml's own quantization of a matrix, every column equally important.  # [rows, bytes of a row] uint8"""
    rows, columns = values.shape
    found = np.empty((rows, ggml.ggml_row_size(number, columns)), np.uint8)
    importance = np.ones(columns, np.float32)
    source, weight = (array.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) for array in (values, importance))
    assert ggml.ggml_quantize_chunk(number, source, found.ctypes.data, 0, rows, columns, weight) == found.nbytes
    return found


def dequantized(number: int, stored: np.ndarray, columns: int) -> np.ndarray:
    """The float32 values ggml gives a quantized matrix.  # [rows, columns]"""
    found = np.empty((len(stored), columns), np.float32)
    to_float = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)(
        ctypes.cast(ggml.ggml_get_type_traits(number).contents.to_float, ctypes.c_void_p).value
    )
    to_float(stored.ctypes.data, found.ctypes.data, found.size)
    return found


@pytest.mark.parametrize("name", sorted(QUANTIZED - NOT_IN_GGUF_PACKAGE))
def test_quantized_weights_are_ggmls(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(3).standard_normal((ROWS, COLUMNS), np.float32)
    number = LAYOUTS[name].number
    assert number is not None
    stored = quantized(number, values)
    expected = dequantized(number, stored, COLUMNS)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "test")
    writer.add_tensor("a", stored, raw_dtype=gguf.GGMLQuantizationType(number))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(tmp_path / "model.gguf")
    parameter = parameter_of(header, header.tensors["a"], "a")
    assert np.linalg.norm(expected - values) < np.linalg.norm(values)  # ggml quantized what it was given
    np.testing.assert_allclose(read_parameter(parameter), expected, rtol=3e-7, atol=1e-7)
    np.testing.assert_allclose(read_rows(parameter, [47, 5]), expected[[47, 5]], rtol=3e-7, atol=1e-7)
