"""Small weight files with random content, written by the gguf and safetensors packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

Write = Callable[..., Path]


@pytest.fixture
def write_gguf(tmp_path: Path) -> Write:
    """write(name, {tensor: (shape in torch order, ggml type)}, architecture, {array key: values}) -> path"""

    def write(
        name: str,
        tensors: Mapping[str, tuple[tuple[int, ...], str]],
        architecture: str = "test",
        arrays: Mapping[str, Any] | None = None,
    ) -> Path:
        rng = np.random.default_rng(1)
        writer = gguf.GGUFWriter(tmp_path / name, architecture)
        for key, values in (arrays or {}).items():
            writer.add_array(key, values)
        for tensor, (shape, type_name) in tensors.items():
            kind = gguf.GGMLQuantizationType[type_name]
            if type_name in ("F32", "F16"):
                values = rng.standard_normal(shape)
                writer.add_tensor(tensor, values.astype(np.float32 if type_name == "F32" else np.float16))
            else:
                block, nbytes = gguf.GGML_QUANT_SIZES[kind]
                stored = (*shape[:-1], shape[-1] // block * nbytes)
                writer.add_tensor(tensor, rng.integers(0, 256, stored, np.uint8), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / name

    return write


@pytest.fixture
def write_safetensors(tmp_path: Path) -> Write:
    """write(name, {tensor: array, or the shape of a random float16 one}, metadata) -> path"""

    def write(
        name: str, tensors: Mapping[str, np.ndarray | tuple[int, ...]], metadata: dict[str, str] | None = None
    ) -> Path:
        rng = np.random.default_rng(1)
        arrays = {
            key: value
            if isinstance(value, np.ndarray)
            else rng.standard_normal(prod(value)).astype("f2").reshape(value)
            for key, value in tensors.items()
        }
        save_file(arrays, tmp_path / name, metadata)
        return tmp_path / name

    return write
