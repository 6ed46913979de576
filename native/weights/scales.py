"""Tensors of a file with the scales and other factors that belong to them, in every form that ComfyUI 0.30 loads.

Sources: comfy/ops.py (_load_quantized_module), comfy/quant_ops.py and comfy/utils.py (convert_old_quants) of ComfyUI
0.30; comfy_kitchen 0.2 (tensor, backends/eager); the FP8 checkpoints of DeepSeek and Qwen for weight_scale_inv.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import isfinite, prod
from typing import Any

import numpy as np

from ..ggml_types import FLOATS
from .convert import read_parameter, reader
from .foreign import refuse_foreign
from .runs import Factors, Run, Scaling, StoredTensor
from .scaling import has_blocks, read_factors
from .weight_file import FileTensor, WeightFile, WeightFileError
from .weight_set import LARGEST, LARGEST_F16, parameter_of, stored_tensor

SCALES = (".scale_weight", ".weight_scale", ".weight_scale_inv")  # ComfyUI's older and newer name, and DeepSeek's
OF_TENSOR = ".weight_scale_2"  # NVFP4's
OF_INPUT = ".pre_quant_scale"  # which the layer's input is multiplied by, so its weight's columns can be
CONFIGURATION = ".comfy_quant"
NOT_NEEDED = (".scale_input", ".input_scale", "scaled_fp8")  # for arithmetic in FP8 alone
LARGEST_READ = 1 << 24  # elements of factors that are looked at for their range; beyond that conversion checks it


@dataclass(frozen=True)
class _Layer:
    """The tensors of a file that make up the weight of a layer."""

    header: WeightFile
    weight: FileTensor
    configuration: Mapping[str, Any]
    scale: FileTensor | None
    of_tensor: FileTensor | None
    of_input: FileTensor | None

    def wrong(self, problem: str) -> WeightFileError:
        """The error for a layer that cannot be read."""
        return WeightFileError(
            f"{self.header.path}: the weight {self.weight.name} {problem}. Use another file of this model: GGUF, or "
            "safetensors in F16, BF16 or FP8."
        )

    def option(self, name: str, otherwise: Any) -> Any:
        """A value of the configuration, in either of the places that core looks for it."""
        inner = self.configuration.get("params")
        return self.configuration.get(name, inner.get(name, otherwise) if isinstance(inner, dict) else otherwise)


def under(header: WeightFile, prefix: str) -> dict[str, StoredTensor]:
    """The tensors whose names begin with `prefix`, by the rest of the name, with their scales.

    Raises WeightFileError for scales of a form that is not read here, and for quantizations of other programs.
    """
    refuse_foreign(header)
    tensors = {name[len(prefix) :]: tensor for name, tensor in header.tensors.items() if name.startswith(prefix)}
    configurations = _configurations(header, prefix, tensors)
    scales = {ending: _taken(tensors, ending) for ending in (*SCALES, OF_TENSOR, OF_INPUT)}
    found = {}
    for name, tensor in tensors.items():
        if name.endswith((*NOT_NEEDED, CONFIGURATION)):
            continue
        layer = name.removesuffix(".weight")
        scale = next((scales[ending][layer] for ending in SCALES if layer in scales[ending]), None)
        if layer == name or (scale is None and layer not in configurations):
            found[name] = stored_tensor(header, tensor)
            continue
        more = scales[OF_TENSOR].get(layer), scales[OF_INPUT].get(layer)
        found[name] = _scaled(_Layer(header, tensor, configurations.get(layer, {}), scale, *more))
    return found


def _taken(tensors: dict[str, FileTensor], ending: str) -> dict[str, FileTensor]:
    """Take the tensors of this ending away; by the name of their layer."""
    return {name.removesuffix(ending): tensors.pop(name) for name in list(tensors) if name.endswith(ending)}


def _configurations(header: WeightFile, prefix: str, tensors: Mapping[str, FileTensor]) -> dict[str, dict[str, Any]]:
    """The descriptions of quantized layers, by layer: a tensor of JSON for each, or all in the file's metadata."""
    texts: dict[str, Any] = {}
    with reader("the quantization's description") as read:
        for name, tensor in tensors.items():
            if name.endswith(CONFIGURATION):
                texts[name.removesuffix(CONFIGURATION)] = bytes(read(tensor.path, tensor.offset, tensor.nbytes))
    try:
        found = {layer: json.loads(text) for layer, text in texts.items()}
        said = json.loads(header.metadata.get("_quantization_metadata", "{}")).get("layers", {})
        found |= {name[len(prefix) :]: value for name, value in said.items() if name.startswith(prefix)}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise WeightFileError(
            f"{header.path} describes its quantization by what is not JSON ({error}). The file is damaged: download "
            "it again."
        ) from error
    wrong = next((layer for layer, value in found.items() if not isinstance(value, dict)), None)
    if wrong is not None:
        raise WeightFileError(f"{header.path} describes the quantization of {wrong} by {found[wrong]!r:.80}.")
    return found


def _scaled(layer: _Layer) -> StoredTensor:
    format_ = layer.configuration.get("format")
    if format_ is None:
        format_ = _format_of_types(layer)
    read = FORMATS.get(format_) if isinstance(format_, str) else None
    if read is None:
        raise layer.wrong(f"is quantized as {format_!r:.60}, which is not read here ({', '.join(sorted(FORMATS))} are)")
    shape, scales = layer.weight.shape, layer.scale.shape if layer.scale else ()
    if len(shape) == 3 and prod(scales) != 1 and scales[0] == shape[0]:
        return _of_experts(layer, read)
    found = read(layer)
    return found if layer.of_input is None else _with_input_scale(layer, found)


def _of_experts(layer: _Layer, read: Callable[[_Layer], StoredTensor]) -> StoredTensor:
    """The matrices of a mixture's experts, one after the other, each with the scales that it has for itself."""
    weight, count = layer.weight, layer.weight.shape[0]
    if layer.of_input is not None or not count:
        raise layer.wrong(f"is {weight.stored} {list(weight.shape)} with scales that are not read of several experts")

    def expert(tensor: FileTensor | None, number: int) -> FileTensor | None:
        if tensor is None or len(tensor.shape) == 0 or tensor.shape[0] != count:
            return tensor  # which all share
        nbytes = tensor.nbytes // count
        return replace(tensor, shape=tensor.shape[1:], offset=tensor.offset + number * nbytes, nbytes=nbytes)

    parts = []
    for number in range(count):
        own = expert(weight, number)
        assert own is not None
        scales = expert(layer.scale, number), expert(layer.of_tensor, number)
        parts.append(read(replace(layer, weight=own, scale=scales[0], of_tensor=scales[1])))
    matrices = {part.matrix for part in parts}
    matrix = next(iter(matrices)) if len(matrices) == 1 else "F32" if "F32" in matrices else "F16"
    runs = tuple(run for part in parts for run in part.runs)
    return StoredTensor(weight.name, (count, *parts[0].shape), runs, matrix)


def _format_of_types(layer: _Layer) -> str:
    """The format of a layer of which the file says no more than its tensors do."""
    stored, scale = layer.weight.stored, layer.scale and layer.scale.stored
    if stored == "F8_E4M3" and scale in ("U8", "F8_E8M0"):
        return "mxfp8"
    if stored == "U8" and layer.of_tensor is not None:
        return "nvfp4"
    return {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8_tensorwise"}.get(stored, "plain")


def _plain(layer: _Layer) -> StoredTensor:
    """A weight of any type times one scale, or one without any."""
    if layer.scale is None:
        return stored_tensor(layer.header, layer.weight)
    if prod(layer.scale.shape) != 1:
        raise layer.wrong(f"is {layer.weight.stored} with scales of shape {list(layer.scale.shape)}")
    return stored_tensor(layer.header, layer.weight, _number(layer.header, layer.scale))


def _fp8(layer: _Layer) -> StoredTensor:
    """FP8 with a scale, one for every row, or one for every block of 128 by 128."""
    _expect(layer, "F8_E4M3", "F8_E5M2")
    if layer.scale is None or prod(layer.scale.shape) == 1:
        return _plain(layer)
    return _of_factors(layer, layer.weight.stored, layer.weight.shape, _tiled(layer, layer.scale), "F16")


def _int8(layer: _Layer) -> StoredTensor:
    """8-bit integers with a scale or one for every row, maybe of columns that were turned (ConvRot)."""
    _expect(layer, "I8")
    if layer.scale is None:
        raise layer.wrong("is INT8 without a scale")
    group = _group(layer) if layer.option("convrot", False) else 0
    matrix, turned = ("F16", "Q8_0") if group else ("Q8_0", None)
    factors = _tiled(layer, layer.scale)
    return _of_factors(layer, "I8", layer.weight.shape, factors, matrix, rotation=group, turned=turned)


def _convrot_int4(layer: _Layer) -> StoredTensor:
    """4-bit integers with a scale for every row, of columns that were turned."""
    _expect(layer, "I8", "U8")
    if layer.scale is None:
        raise layer.wrong("is ConvRot INT4 without a scale")
    shape = _unpacked(layer)
    factors = _tiled(layer, layer.scale, shape)
    return _of_factors(layer, "I4", shape, factors, "Q8_0", rotation=_group(layer), turned="Q4_0")


def _mxfp8(layer: _Layer) -> StoredTensor:
    """FP8 with a power of two for every 32 columns."""
    _expect(layer, "F8_E4M3")
    if layer.scale is None:
        raise layer.wrong("is MXFP8 without scales")
    factors = _swizzled(layer, layer.scale, "F8_E8M0", layer.weight.shape, 32)
    return replace(_of_factors(layer, layer.weight.stored, layer.weight.shape, factors, "F16"), padding=32)


def _nvfp4(layer: _Layer) -> StoredTensor:
    """4-bit floats with an FP8 scale for every 16 columns, and a scale."""
    _expect(layer, "U8")
    if layer.scale is None or layer.of_tensor is None:
        raise layer.wrong("is NVFP4 without its two scales")
    shape = _unpacked(layer)
    factors = _swizzled(layer, layer.scale, "F8_E4M3", shape, 16)
    found = _of_factors(layer, "E2M1", shape, factors, "Q8_0", _number(layer.header, layer.of_tensor))
    return replace(found, padding=16)


FORMATS: dict[str, Callable[[_Layer], StoredTensor]] = {  # as comfy_quant calls them
    "float8_e4m3fn": _fp8,
    "float8_e5m2": _fp8,
    "int8_tensorwise": _int8,
    "convrot_w4a4": _convrot_int4,
    "mxfp8": _mxfp8,
    "nvfp4": _nvfp4,
    "plain": _plain,
}


def _of_factors(
    layer: _Layer, stored: str, shape: tuple[int, ...], factors: Factors, matrix: str, scale: float = 1.0,
    rotation: int = 0, turned: str | None = None,
) -> StoredTensor:  # fmt: skip
    """The weight as codes with factors. matrix, turned: as StoredTensor's, if the factors allow that."""
    weight = layer.weight
    if 0 in shape:
        raise layer.wrong(f"is empty (shape {list(shape)})")
    if len(shape) != 2:
        raise layer.wrong(f"is {weight.stored} {list(shape)} with scales, which are read of matrices alone")
    scaling = Scaling(shape[1], (factors,), rotation=rotation)
    run = Run(weight.path, stored, weight.offset, weight.nbytes, scale, scaling=scaling)
    found = StoredTensor(weight.name, shape, (run,), matrix, turned if has_blocks(scaling) else None)
    if prod(factors.shape) > LARGEST_READ or factors.stored == "F8_E4M3":
        return found
    with reader(weight.name) as read:
        sizes = np.abs(read_factors(factors, read)) * np.float32(abs(scale))
    if not np.isfinite(sizes).all():
        raise layer.wrong("has scales that are infinite or no numbers. The file is damaged")
    if float(sizes.max(initial=0)) * LARGEST.get(stored, 128.0) > LARGEST_F16:
        return replace(found, matrix="F32", turned=None)
    lost = np.abs(sizes - sizes.astype(np.float16).astype(np.float32))
    if (lost > np.maximum(sizes * 2.0**-10, 2.0**-32)).any():  # blocks with such a factor would be others
        return replace(found, matrix="F16" if stored == "I8" else matrix, turned=None)
    return found


def _with_input_scale(layer: _Layer, found: StoredTensor) -> StoredTensor:
    (run,), of_input = found.runs, layer.of_input
    assert of_input is not None
    columns = found.shape[-1]
    if len(found.shape) != 2 or prod(of_input.shape) != columns:
        raise layer.wrong(f"has a pre_quant_scale of shape {list(of_input.shape)}")
    _expect_floats(layer, of_input)
    factors = Factors(of_input.path, of_input.stored, of_input.offset, (1, columns), (found.shape[0], 1))
    scaling = run.scaling or Scaling(columns)
    if scaling.rotation:
        raise layer.wrong("is turned (ConvRot) and has a pre_quant_scale")
    run = replace(run, scaling=replace(scaling, factors=(*scaling.factors, factors)))
    return replace(found, runs=(run,), matrix="F16" if found.matrix is None else found.matrix)


def _tiled(layer: _Layer, scale: FileTensor, shape: tuple[int, ...] | None = None) -> Factors:
    """Scales of a weight of this shape: one, one for every row, or one for every block."""
    _expect_floats(layer, scale)
    shape = shape or layer.weight.shape
    rows, columns = (prod(shape[:-1]), shape[-1]) if shape else (1, 1)
    size = scale.shape
    if prod(size) in (1, rows):
        high = prod(size)
        return Factors(scale.path, scale.stored, scale.offset, (high, 1), (rows // max(1, high), columns))
    if len(size) == 2:
        high, wide = (_tile(whole, count) for whole, count in zip((rows, columns), size, strict=True))
        if high and wide:
            return Factors(scale.path, scale.stored, scale.offset, (size[0], size[1]), (high, wide))
    raise layer.wrong(f"is {layer.weight.stored} {list(shape)} with scales of shape {list(size)}, which fit no blocks")


def _tile(whole: int, count: int) -> int:
    """How many of `whole` rows or columns share one of `count` scales: 128 with a rest, or equal parts; 0: neither."""
    if -(-whole // 128) == count:
        return 128
    return whole // count if count and whole % count == 0 else 0


def _swizzled(layer: _Layer, scale: FileTensor, stored: str, shape: tuple[int, ...], group: int) -> Factors:
    """Scales of every `group` columns, in the order and padding of cuBLAS."""
    rows, columns = (*shape, 0, 0)[:2]
    if len(shape) != 2 or columns % group:
        raise layer.wrong(f"is {list(shape)}, which has no groups of {group} columns")
    needed = -(-rows // 128) * 128 * (-(-columns // group // 4) * 4)
    if scale.stored not in (stored, "U8") or prod(scale.shape) != needed:
        raise layer.wrong(f"has {scale.stored} scales of shape {list(scale.shape)} where {needed:,} {stored} belong")
    return Factors(scale.path, stored, scale.offset, (rows, columns // group), (1, group), swizzled=True)


def _unpacked(layer: _Layer) -> tuple[int, ...]:
    shape = layer.weight.shape
    return (*shape[:-1], 2 * shape[-1]) if shape else shape


def _group(layer: _Layer) -> int:
    """The number of columns that were turned together: a power of four (comfy_kitchen, tensor/int8_utils.py)."""
    group = layer.option("convrot_groupsize", 256)
    shape = _unpacked(layer) if layer.configuration.get("format") == "convrot_w4a4" else layer.weight.shape
    columns = shape[-1] if shape else 0
    if type(group) is not int or group not in (4, 16, 64, 256, 1024) or columns % group:
        raise layer.wrong(f"has {columns:,} columns turned by groups of {group!r:.20}")
    return group


def _expect(layer: _Layer, *types: str) -> None:
    if layer.weight.stored not in types:
        raise layer.wrong(f"is said to be {layer.configuration.get('format')} but stored as {layer.weight.stored}")


def _expect_floats(layer: _Layer, scale: FileTensor) -> None:
    if scale.stored not in FLOATS:
        raise layer.wrong(f"has scales that are stored as {scale.stored}")


def _number(header: WeightFile, tensor: FileTensor) -> float:
    if prod(tensor.shape) != 1:
        raise WeightFileError(
            f"{header.path}: {tensor.name} has the shape {list(tensor.shape)} where one number is needed. Use another "
            "file of this model."
        )
    scale = float(read_parameter(parameter_of(header, tensor, tensor.name)).reshape(()))
    if not isfinite(scale):
        raise WeightFileError(
            f"{header.path}: the scale {tensor.name} is {scale}. The file is damaged: download it again."
        )
    return scale
