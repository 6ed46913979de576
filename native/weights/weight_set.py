"""The parameters of a model: where each is stored, and the ggml type it is loaded as."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Literal

import numpy as np

from ..ggml_types import ACTIVATIONS, CODES, INTEGERS, LAYOUTS, QUANTIZED, alignment, tensor_bytes
from .runs import Run, StoredTensor
from .weight_file import FileTensor, WeightFile, WeightFileError

LARGEST = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}
LARGEST_F16 = 65504.0
ARRAY_TYPES = {"float32": "F32", "float16": "F16", "uint16": "BF16"}  # numpy has no BF16
# What a parameter is in its module: the weight of a linear layer, the matrices of a mixture's experts, one that the
# module has by itself and not in a layer, or another.
Role = Literal["linear", "experts", "own", ""]
_TABLE = 1 << 18  # elements: up to here a module's own parameter is a table of shifts and scales, else maybe a matrix
# Bytes: a parameter up to this size, which is never streamed, stays loaded beside the array that takes its place.
_STAYS = 64 << 10


@dataclass(frozen=True, eq=False)
class ComputedArray:
    """An array that is computed each time its content is needed, such as a weight that a patch has changed.

    dtype: float32 or float16. recipe: text that is the same for the same content. compute: the content, of that shape
    and type.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    recipe: str
    compute: Callable[[], np.ndarray] = field(repr=False)

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the content."""
        return self.size * self.dtype.itemsize


Array = np.ndarray | ComputedArray


def content(array: Array) -> np.ndarray:
    """The content of an array of a weight set, without gaps; raises what computing it does."""
    return np.ascontiguousarray(array.compute() if isinstance(array, ComputedArray) else array)


def array_digest(array: Array) -> str:
    """SHA-256 of type, shape and content, or of what the content is computed from."""
    digest = hashlib.sha256(json.dumps([array.dtype.str, array.shape]).encode())
    digest.update(array.recipe.encode() if isinstance(array, ComputedArray) else np.ascontiguousarray(array).data)
    return digest.hexdigest()


def load_type(stored: str, shape: tuple[int, ...], scale: float = 1.0, matrix: str | None = None) -> str:
    """The ggml type that a parameter of type `stored` and this shape (torch order) is loaded as.

    matrix: the type for matrices where it follows from more than that, F16 where its blocks do not fit.

    Vectors (biases, norms, tokens of padding) are F32. Matrices keep what ggml can multiply. Convolution kernels keep
    F32 and F16, for which alone ggml convolves. F8, which ggml lacks, becomes F16, or F32 where `scale` takes it out of
    F16's range.
    """
    if prod(shape[:-1]) == 1 or stored == "F64":
        return "F32"
    if len(shape) > 2 and stored not in LARGEST:
        return stored if stored in ("F32", "F16") else "F32"
    if matrix:
        return matrix if shape[-1] % LAYOUTS[matrix].block == 0 else "F16"
    if stored in LARGEST:
        return "F16" if LARGEST[stored] * abs(scale) <= LARGEST_F16 else "F32"
    return stored if shape[-1] % LAYOUTS[stored].block == 0 else "F32"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a module: its places and types in files, and the type it is loaded as."""

    name: str  # in the module
    type: str  # ggml type once loaded
    shape: tuple[int, ...]  # torch order
    runs: tuple[Run, ...]  # its elements, one after the other
    rotation: int = 0  # columns that stay turned together once loaded; 0: none

    @property
    def weight_bytes(self) -> int:
        """Bytes once loaded."""
        return tensor_bytes(self.type, self.shape)

    @property
    def path(self) -> str:
        """The file that it begins in."""
        return self.runs[0].path

    @property
    def stored(self) -> str:
        """The type that it begins in; others have it too, but for parameters of several tensors of a file."""
        return self.runs[0].stored

    @property
    def nbytes(self) -> int:
        """Bytes in files."""
        return sum(run.stored_bytes for run in self.runs)


def mappable(parameter: Parameter) -> bool:
    """Whether ggml can use the mapped file's bytes in place: one run, nothing to convert, and aligned to the type."""
    run = parameter.runs[0]
    return (
        len(parameter.runs) == run.parts == 1
        and run.is_as_loaded(parameter.type)
        and run.offset % alignment(run.stored) == 0
    )


def stored_tensor(header: WeightFile, tensor: FileTensor, scale: float = 1.0) -> StoredTensor:
    """A tensor of a file that is no more than its name says, times a factor."""
    return StoredTensor(
        tensor.name, tensor.shape, (Run(tensor.path, tensor.stored, tensor.offset, tensor.nbytes, scale),)
    )


def parameter_of(header: WeightFile, tensor: FileTensor, name: str, scale: float = 1.0) -> Parameter:
    """The parameter `name` of a module from a tensor of a file. Raises WeightFileError for a type of no weight."""
    stored = stored_tensor(header, tensor, scale)
    return parameter(name, tensor.shape, stored.runs, [stored])


def parameter(
    name: str, shape: tuple[int, ...], runs: tuple[Run, ...], tensors: Sequence[StoredTensor], role: Role = ""
) -> Parameter:
    """A parameter of these runs. Raises WeightFileError for a type of no weight.

    tensors: that the runs are of. A linear layer can turn what it multiplies; experts' matrices are no kernel; blocks
    of a module's own table become F32, as devices do not compute with blocks what is no product.
    """
    for tensor in tensors:
        _check_weight(tensor)
    kept = {(tensor.turned, run.scaling.rotation if run.scaling else 0) for tensor in tensors for run in tensor.runs}
    turned, rotation = next(iter(kept))
    if role == "linear" and turned and len(kept) == 1:
        return Parameter(name, turned, shape, runs, rotation)
    matrix = (prod(shape[:-1]), shape[-1]) if role == "experts" else shape
    types = {load_type(run.stored, matrix, run.scale, tensor.matrix) for tensor in tensors for run in tensor.runs}
    if len(types) > 1:  # blocks of several types in one parameter become what has the range of all
        types = {"F32"} if types & {"F32", "BF16"} else {"F16"}
    table = role == "own" and types <= QUANTIZED and prod(shape) <= _TABLE
    return Parameter(name, "F32" if table else types.pop(), shape, runs)


def _check_weight(tensor: StoredTensor) -> None:
    for run in tensor.runs:
        if (run.stored in INTEGERS | CODES and not run.scaling) or run.stored in ACTIVATIONS:
            raise WeightFileError(
                f"{run.path}: the weight {tensor.name} is stored as {run.stored}, which ggml cannot compute with. "
                "Use a GGUF file (Q2_K to Q8_0, IQ, F16, BF16) or a safetensors file in F32, F16, BF16 or FP8."
            )
        if run.scale != 1.0 and run.stored in QUANTIZED:
            raise WeightFileError(
                f"{run.path}: the weight {tensor.name} is stored as {run.stored} and has a scale of its own, which "
                "no known writer does. Use another file of this model."
            )
    if 0 in tensor.shape:
        raise WeightFileError(f"{tensor.runs[0].path}: the weight {tensor.name} is empty (shape {list(tensor.shape)}).")


@dataclass(frozen=True, eq=False)
class WeightSet:
    """The parameters of a model, from files and from memory.

    arrays: parameters in memory (float32, float16, or BF16 as uint16); they take the place of file parameters of the
    same name.
    """

    name: str  # for messages
    parameters: dict[str, Parameter] = field(repr=False)
    files: tuple[tuple[str, int, int], ...]  # path, size in bytes, mtime in ns
    arrays: dict[str, Array] = field(default_factory=dict, repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content: equal for the same tensors of the same unchanged files and the same arrays."""
        digest = hashlib.sha256()
        digest.update(described_in_bytes(self.files, self.parameters.values()))
        for name in sorted(self.arrays):
            digest.update(json.dumps([name, array_digest(self.arrays[name])]).encode())
        return digest.hexdigest()

    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape (torch order) and loaded ggml type of every parameter, by name; not to be changed."""
        return self._shapes

    @cached_property
    def _shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        stored = {name: (parameter.shape, parameter.type) for name, parameter in self.parameters.items()}
        return stored | {name: (array.shape, ARRAY_TYPES[str(array.dtype)]) for name, array in self.arrays.items()}

    def only(self, names: Collection[str]) -> WeightSet:
        """A copy of the set with these parameters and arrays alone."""
        return replace(
            self,
            parameters={name: found for name, found in self.parameters.items() if name in names},
            arrays={name: array for name, array in self.arrays.items() if name in names},
        )

    def with_arrays(self, arrays: Mapping[str, Array]) -> WeightSet:
        """A copy of the set in which these arrays (as `arrays` has them) replace or add parameters.

        A small parameter stays in the set, so that the runner does not load the files anew for a changed bias.
        Raises TypeError for an array of another type.
        """
        for name, array in arrays.items():
            if str(array.dtype) not in ARRAY_TYPES:
                raise TypeError(f"the array {name} is {array.dtype}; a weight set holds float32 and float16 arrays")
        kept = {
            name: each for name, each in self.parameters.items() if name not in arrays or each.weight_bytes <= _STAYS
        }
        return replace(self, parameters=kept, arrays=self.arrays | dict(arrays))

    def joined(self, others: Mapping[str, WeightSet]) -> WeightSet:
        """A copy of the set that has those of other models too, each under a prefix."""
        parameters, arrays, files = dict(self.parameters), dict(self.arrays), dict.fromkeys(self.files)
        for prefix, other in others.items():
            parameters |= {prefix + name: replace(each, name=prefix + name) for name, each in other.parameters.items()}
            arrays |= {prefix + name: each for name, each in other.arrays.items()}
            files |= dict.fromkeys(other.files)
        return replace(self, parameters=parameters, arrays=arrays, files=tuple(files))

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


def described_in_bytes(files: Sequence[tuple[str, int, int]], parameters: Iterable[Parameter]) -> bytes:
    """Text that is the same for the same parameters of the same unchanged files, whatever their order."""
    rows = sorted((each.name, repr(each)) for each in parameters)
    return json.dumps([files, rows]).encode()


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
