"""How files store weights, in the forms that ComfyUI's templates name, and files of a header alone.

Sources: comfy/ops.py, comfy/quant_ops.py and convert_old_quants in comfy/utils.py of ComfyUI 0.30.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

Shapes = Mapping[str, tuple[int, ...]]
BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "I8": 1, "U8": 1}
_IN_BLOCK = re.compile(r"\.\d+\.")
_NARROWEST = 256  # columns and rows of a weight that is quantized


@dataclass
class HollowFile:
    """A safetensors file whose weights are zeros.

    tensors: type and shape by name. contents: bytes of those that are read, such as tokenizers.
    """

    tensors: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def add_bytes(self, name: str, content: bytes) -> None:
        """A tensor of bytes, such as a tokenizer."""
        self.tensors[name], self.contents[name] = ("U8", (len(content),)), content

    def write(self, path: Path) -> None:
        """Where there is a hole for the zeros; it takes the name when it is whole."""
        names = sorted(self.tensors, key=lambda name: name not in self.contents)
        header: dict[str, object] = {"__metadata__": self.metadata} if self.metadata else {}
        end = 0
        for name in names:
            stored, shape = self.tensors[name]
            start, end = end, end + math.prod(shape) * BYTES[stored]
            header[name] = {"dtype": stored, "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # as the format's own writer aligns data
        partial = path.with_suffix(".partial")
        partial.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(self.contents.values()))
        os.truncate(partial, 8 + len(text) + end)
        os.replace(partial, path)


def _is_quantized(name: str, shape: tuple[int, ...]) -> bool:
    """A layer's matrix in one of the blocks, or the matrices of a mixture's experts."""
    if len(shape) == 3 and ".experts." in name:
        return name.endswith(".weight")
    return (
        len(shape) == 2 and name.endswith(".weight") and bool(_IN_BLOCK.search(name)) and "embed" not in name
        and min(shape) >= _NARROWEST and shape[1] % _NARROWEST == 0
    )  # fmt: skip


def _all(stored: str) -> Callable[[HollowFile, str, Shapes], None]:
    def write(file: HollowFile, prefix: str, shapes: Shapes) -> None:
        file.tensors |= {prefix + name: (stored, shape) for name, shape in shapes.items()}

    return write


def _fp8(file: HollowFile, prefix: str, shapes: Shapes) -> None:
    """Matrices and kernels in FP8 without scales."""
    for name, shape in shapes.items():
        file.tensors[prefix + name] = ("F8_E4M3" if len(shape) > 1 else "BF16", shape)


def _quantized(
    layer: Callable[[HollowFile, str, tuple[int, ...]], None], marked: bool = False
) -> Callable[[HollowFile, str, Shapes], None]:
    """The matrices of blocks as `layer` stores them, the rest in BF16."""

    def write(file: HollowFile, prefix: str, shapes: Shapes) -> None:
        if marked:
            file.tensors[f"{prefix}scaled_fp8"] = ("F8_E4M3", (0,))
        for name, shape in shapes.items():
            if _is_quantized(name, shape):
                layer(file, prefix + name.removesuffix(".weight"), shape)
            else:
                file.tensors[prefix + name] = ("BF16", shape)

    return write


def _described(file: HollowFile, layer: str, **configuration: object) -> None:
    file.add_bytes(f"{layer}.comfy_quant", json.dumps(configuration).encode())


def _old_fp8_layer(file: HollowFile, layer: str, shape: tuple[int, ...]) -> None:
    file.tensors |= {f"{layer}.weight": ("F8_E4M3", shape), f"{layer}.scale_weight": ("F32", (1,))}


def _fp8_layer(file: HollowFile, layer: str, shape: tuple[int, ...]) -> None:
    file.tensors |= {f"{layer}.weight": ("F8_E4M3", shape), f"{layer}.weight_scale": ("F32", ())}
    _described(file, layer, format="float8_e4m3fn")


def _int8_layer(file: HollowFile, layer: str, shape: tuple[int, ...]) -> None:
    file.tensors |= {f"{layer}.weight": ("I8", shape), f"{layer}.weight_scale": ("F32", (*shape[:-1], 1))}
    _described(file, layer, format="int8_tensorwise", convrot=True, convrot_groupsize=256)


def _nvfp4_layer(file: HollowFile, layer: str, shape: tuple[int, ...]) -> None:
    *experts, rows, columns = shape
    scales = *experts, -(-rows // 128) * 128, -(-columns // 64) * 4  # as cuBLAS pads them
    file.tensors |= {
        f"{layer}.weight": ("U8", (*experts, rows, columns // 2)), f"{layer}.weight_scale": ("F8_E4M3", scales),
        f"{layer}.weight_scale_2": ("F32", tuple(experts)),
    }  # fmt: skip
    _described(file, layer, format="nvfp4")


def _awq_layer(file: HollowFile, layer: str, shape: tuple[int, ...]) -> None:
    _nvfp4_layer(file, layer, shape)
    file.tensors[f"{layer}.pre_quant_scale"] = ("BF16", (shape[1],))


STORAGES: Mapping[str, Callable[[HollowFile, str, Shapes], None]] = {
    "F32": _all("F32"),
    "F16": _all("F16"),
    "BF16": _all("BF16"),
    "FP8": _fp8,
    "FP8 scaled": _quantized(_old_fp8_layer, marked=True),
    "FP8 mixed": _quantized(_fp8_layer),
    "INT8 ConvRot": _quantized(_int8_layer),
    "NVFP4": _quantized(_nvfp4_layer),
    "NVFP4 AWQ": _quantized(_awq_layer),
}


def storage_of(name: str) -> str:
    """The form that a file's name tells; BF16 where it says nothing."""
    for pattern, stored in _BY_NAME:
        if re.search(pattern, name, re.IGNORECASE):
            return stored
    return "BF16"


_BY_NAME = (
    ("nvfp4_awq", "NVFP4 AWQ"), ("nvfp4|fp4_mixed", "NVFP4"), ("int8_convrot|int8", "INT8 ConvRot"),
    ("fp8_?mixed", "FP8 mixed"), ("fp8_e4m3fn_scaled|fp8_scaled|scaled_e4m3fn", "FP8 scaled"), ("fp8", "FP8"),
    ("fp32", "F32"), ("fp16", "F16"),
)  # fmt: skip
