"""The weights of a model case in memory and in a quantized file, and how far results are from torch's."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import numpy as np
import torch

from native.weights import WeightSet, read_header
from native.weights.weight_set import parameter_of

from .model_cases import Inputs, ModelCase


def _results(value: object) -> list[torch.Tensor]:
    found = value if isinstance(value, tuple) else (value,)
    return [x for x in found if isinstance(x, torch.Tensor)]


def reference(module: torch.nn.Module, case: ModelCase, inputs: Inputs) -> list[torch.Tensor]:
    with torch.no_grad():
        return _results(case.function(module, {name: x.clone() for name, x in inputs.items()}))


def worst(results: tuple[torch.Tensor, ...], expected: list[torch.Tensor]) -> float:
    assert [x.shape for x in results] == [x.shape for x in expected]
    return max(float((r - e).norm() / e.norm()) for r, e in zip(results, expected, strict=True))


def in_memory(module: torch.nn.Module) -> WeightSet:
    """The tensors that a file of the module would hold: its parameters and persistent buffers, but no whole numbers."""
    named = module.state_dict(keep_vars=True).items()
    floats = {name: p.detach().numpy() for name, p in named if p.is_floating_point()}
    return WeightSet("a small model", {}, (), floats)


def _quantize(array: np.ndarray, kind: str) -> np.ndarray:
    """ggml's own quantization of rows; the bytes."""
    import ggml

    number = getattr(ggml, f"GGML_TYPE_{kind}")
    rows, columns = array.shape
    out = np.zeros((rows, ggml.ggml_row_size(number, columns)), np.uint8)
    floats, importance = np.ascontiguousarray(array, np.float32), np.ones(columns, np.float32)
    ggml.ggml_quantize_chunk(
        number, _floats(floats), out.ctypes.data_as(ctypes.c_void_p), 0, rows, columns, _floats(importance)
    )
    return out


def _floats(array: np.ndarray) -> object:
    return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def quantized_file(path: Path, module: torch.nn.Module, kind: str) -> WeightSet:
    """The module's matrices in a GGUF file, quantized; the module gets what they are when dequantized."""
    writer = gguf.GGUFWriter(path, "test")
    linear = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)}
    for name, p in module.named_parameters():
        array = p.detach().numpy()
        if name in linear and array.shape[1] % 256 == 0:
            data = _quantize(array, kind)
            quantization = gguf.GGMLQuantizationType[kind]
            p.data = torch.from_numpy(gguf.quants.dequantize(data, quantization).astype(np.float32))
            writer.add_tensor(name, data, raw_dtype=quantization)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    parameters = {name: parameter_of(header, tensor, name) for name, tensor in header.tensors.items()}
    return WeightSet("a small model", parameters, ((header.path, header.size, header.mtime_ns),))
