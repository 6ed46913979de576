"""The weights of a model case in memory and in a quantized file, and how far results are from torch's."""

from __future__ import annotations

import ctypes
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import torch

from native.ggml_types import LAYOUTS, QUANTIZED
from native.weights import WeightSet, read_header
from native.weights.weight_set import parameter_of

from .model_cases import Inputs, ModelCase

# Types of matrices whose columns are no whole blocks, as llama.cpp's quantizer has them (convert_incompatible_tensor).
_NARROW = {"Q4_K": ("Q5_0",), "Q6_K": ("Q8_0",)}


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
    return WeightSet("a small model", {}, (), {name: p.detach().numpy() for name, p in _floats_of(module).items()})


def _floats_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p for name, p in module.state_dict(keep_vars=True).items() if p.is_floating_point()}


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


def _type(kind: str, columns: int) -> str:
    """The type of a matrix in a file of this kind: another one where its columns are no whole blocks, or F32."""
    kinds = (kind, *_NARROW.get(kind, ()))
    return next((each for each in kinds if columns and columns % LAYOUTS[each].block == 0), "F32")


def quantized_file(path: Path, module: torch.nn.Module, kind: str) -> WeightSet:
    """The module's matrices in a GGUF file, quantized; the module gets what they are when dequantized.

    What GGUF has no place for, such as kernels of five dimensions, is in memory.
    """
    writer = gguf.GGUFWriter(path, "test")
    linear = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)}
    arrays = {}
    for name, p in _floats_of(module).items():
        array = p.detach().numpy()
        stored = _type(kind, array.shape[1]) if name in linear else "F32"
        if stored != "F32":
            data = _quantize(array, stored)
            quantization = gguf.GGMLQuantizationType[stored]
            p.data = torch.from_numpy(gguf.quants.dequantize(data, quantization).astype(np.float32))
            writer.add_tensor(name, data, raw_dtype=quantization)
        elif 0 < array.ndim <= 4 and array.size:
            writer.add_tensor(name, np.ascontiguousarray(array))
        elif array.size:  # a file's marks are empty tensors
            arrays[name] = array
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    parameters = {name: parameter_of(header, tensor, name) for name, tensor in header.tensors.items()}
    return WeightSet("a small model", parameters, ((header.path, header.size, header.mtime_ns),), arrays)


def round_activations(module: torch.nn.Module, weights: WeightSet) -> None:
    """Round what a Linear of a quantized weight is given, as ggml's CPU kernels do (ggml-cpu/quants.c: Q8_0, Q8_K).

    They multiply 8 bits by 8 bits: activations in blocks as wide as the weight's, each with a factor of its own.
    """

    def rounded(block: int, _: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        blocks = arguments[0].unflatten(-1, (-1, block))
        step = (blocks.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-30)
        return ((blocks / step).round() * step).flatten(-2), *arguments[1:]

    for name, part in module.named_modules():
        parameter = weights.parameters.get(f"{name}.weight")
        if isinstance(part, torch.nn.Linear) and parameter is not None and parameter.stored in QUANTIZED:
            part.register_forward_pre_hook(partial(rounded, LAYOUTS[parameter.stored].block))
