"""The parameters of a model: where each is stored, and the ggml type it is loaded as."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from math import prod

import numpy as np

from ..ggml_types import ACTIVATIONS, INTEGERS, LAYOUTS, QUANTIZED, alignment, tensor_bytes
from .weight_file import FileTensor, WeightFile, WeightFileError

LARGEST = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}
LARGEST_F16 = 65504.0
ARRAY_TYPES = {"float32": "F32", "float16": "F16"}


def load_type(stored: str, shape: tuple[int, ...], scale: float = 1.0) -> str:
    """The ggml type that a parameter of type `stored` and this shape (torch order) is loaded as.

    Vectors (biases, norms) are F32. Matrices keep what ggml can multiply. Convolution kernels keep F32 and F16, for
    which alone ggml convolves. F8, which ggml lacks, becomes F16, or F32 where `scale` takes it out of F16's range.
    """
    if len(shape) <= 1 or stored == "F64":
        return "F32"
    if len(shape) > 2:
        return stored if stored in ("F32", "F16") else "F32"
    if stored in LARGEST:
        return "F16" if LARGEST[stored] * abs(scale) <= LARGEST_F16 else "F32"
    return stored if shape[-1] % LAYOUTS[stored].block == 0 else "F32"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a module: its place and type in a file, and the type it is loaded as."""

    name: str  # in the module
    type: str  # ggml type once loaded
    shape: tuple[int, ...]  # torch order
    path: str
    stored: str  # type in the file
    offset: int  # bytes from the start of the file
    nbytes: int  # in the file
    scale: float = 1.0  # factor of the stored values
    order: tuple[tuple[int, int], ...] = ()  # of its runs in the file: how many, bytes apart; outermost first

    @property
    def weight_bytes(self) -> int:
        """Bytes once loaded."""
        return tensor_bytes(self.type, self.shape)


def runs(parameter: Parameter, start: int, nbytes: int) -> Iterator[tuple[int, int]]:
    """Where in its file a part of a parameter's stored bytes is: the offset and the length of each run."""
    if not parameter.order:
        yield parameter.offset + start, nbytes
        return
    run = parameter.nbytes // prod(count for count, _ in parameter.order)
    end = start + nbytes
    while start < end:
        index, within = divmod(start, run)
        offset, length = parameter.offset + within, min(run - within, end - start)
        for count, step in reversed(parameter.order):
            index, place = divmod(index, count)
            offset += place * step
        yield offset, length
        start += length


def mappable(parameter: Parameter) -> bool:
    """Whether ggml can use the mapped file's bytes in place: nothing to convert, and aligned to the type."""
    return (
        parameter.type == parameter.stored
        and parameter.scale == 1.0
        and not parameter.order
        and parameter.offset % alignment(parameter.stored) == 0
    )


def parameter_of(header: WeightFile, tensor: FileTensor, name: str, scale: float = 1.0) -> Parameter:
    """The parameter `name` of a module from a tensor of a file. Raises WeightFileError for a type of no weight."""
    if tensor.stored in INTEGERS or tensor.stored in ACTIVATIONS:
        raise WeightFileError(
            f"{header.path}: the weight {tensor.name} is stored as {tensor.stored}, which ggml cannot compute with. "
            "Use a GGUF file (Q2_K to Q8_0, IQ, F16, BF16) or a safetensors file in F32, F16, BF16 or FP8."
        )
    if 0 in tensor.shape:
        raise WeightFileError(f"{header.path}: the weight {tensor.name} is empty (shape {list(tensor.shape)}).")
    if scale != 1.0 and tensor.stored in QUANTIZED:
        raise WeightFileError(
            f"{header.path}: the weight {tensor.name} is stored as {tensor.stored} and has a scale of its own, which "
            "no known writer does. Use another file of this model."
        )
    return Parameter(
        name=name,
        type=load_type(tensor.stored, tensor.shape, scale),
        shape=tensor.shape,
        path=tensor.path,
        stored=tensor.stored,
        offset=tensor.offset,
        nbytes=tensor.nbytes,
        scale=scale,
    )


@dataclass(frozen=True, eq=False)
class WeightSet:
    """The parameters of a model, from files and from memory.

    arrays: parameters in memory (float32 or float16); they take the place of file parameters of the same name.
    """

    name: str  # for messages
    parameters: dict[str, Parameter] = field(repr=False)
    files: tuple[tuple[str, int, int], ...]  # path, size in bytes, mtime in ns
    arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content: equal for the same tensors of the same unchanged files and the same arrays."""
        content = hashlib.sha256()
        parameters = [astuple(self.parameters[name]) for name in sorted(self.parameters)]
        content.update(json.dumps([self.files, parameters]).encode())
        for name in sorted(self.arrays):
            array = self.arrays[name]
            content.update(json.dumps([name, array.dtype.str, array.shape]).encode())
            content.update(np.ascontiguousarray(array).data)
        return content.hexdigest()

    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape (torch order) and loaded ggml type of every parameter, by name."""
        stored = {name: (parameter.shape, parameter.type) for name, parameter in self.parameters.items()}
        return stored | {name: (array.shape, ARRAY_TYPES[str(array.dtype)]) for name, array in self.arrays.items()}

    def with_arrays(self, arrays: Mapping[str, np.ndarray]) -> WeightSet:
        """A copy of the set in which these arrays (float32 or float16) replace or add parameters.

        Raises TypeError for an array of another type.
        """
        for name, array in arrays.items():
            if str(array.dtype) not in ARRAY_TYPES:
                raise TypeError(f"the array {name} is {array.dtype}; a weight set holds float32 and float16 arrays")
        kept = {name: parameter for name, parameter in self.parameters.items() if name not in arrays}
        return replace(self, parameters=kept, arrays=self.arrays | dict(arrays))

    def require(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Checks that the set has a module's parameters in their shapes (torch order). Raises WeightFileError."""
        present = self.shapes()
        faults = [f"{name} {list(shape)} is missing" for name, shape in shapes.items() if name not in present]
        faults += [
            f"{name} is {list(present[name][0])} where {list(shape)} is needed"
            for name, shape in shapes.items()
            if name in present and present[name][0] != tuple(shape)
        ]
        if faults:
            paths = ", ".join(path for path, _, _ in self.files)
            more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
            raise WeightFileError(
                f"{paths} does not fit the {self.name} that its other tensors describe: {'; '.join(faults[:3])}{more}. "
                "The file is incomplete or damaged: download it again."
            )


def check_unchanged(weights: WeightSet) -> None:
    """Checks that the files of a set are still those whose headers were read. Raises WeightFileError."""
    for path, size, mtime_ns in weights.files:
        try:
            status = os.stat(path)
        except OSError as error:
            raise WeightFileError(f"{path} can no longer be read: {error.strerror}. Choose the file again.") from error
        if (status.st_size, status.st_mtime_ns) != (size, mtime_ns):
            raise WeightFileError(
                f"{path} changed since its header was read ({size:,} bytes then, {status.st_size:,} now). "
                "Queue the prompt again to load the new file."
            )
