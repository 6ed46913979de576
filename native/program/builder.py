"""Append operations to a program that is being built."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..ggml_types import LAYOUTS
from . import Output, Program, Tensor
from .schedule import nbytes, schedule

Ne = tuple[int, int, int, int]
_SHARED_BYTES = 1 << 20  # results up to this size are computed once and kept; larger ones would hold memory


def four(ne: Sequence[int]) -> Ne:
    """Dimensions in ggml's order, filled up with ones."""
    a, b, c, d = (*ne, 1, 1, 1, 1)[:4]
    if math.prod(ne) != a * b * c * d:
        raise ValueError(f"{tuple(ne)} has more than four dimensions")
    return a, b, c, d


class Builder:
    """A growing table of tensors; every method returns the index of the tensor it names."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.constants: dict[str, np.ndarray] = {}
        self.module_paths: list[str] = []  # the module path of each tensor, for messages
        self.module_path = ""
        self._seen: dict[Tensor, int] = {}

    def __getitem__(self, index: int) -> Tensor:
        return self.tensors[index]

    def _append(self, tensor: Tensor, share: bool) -> int:
        if share and tensor in self._seen:
            return self._seen[tensor]
        self.tensors.append(tensor)
        self.module_paths.append(self.module_path)
        self._seen[tensor] = len(self.tensors) - 1
        return len(self.tensors) - 1

    def leaf(self, kind: str, name: str, type_: str, ne: Sequence[int]) -> int:
        """An input, weight or constant; the same one each time it is asked for."""
        return self._append(Tensor(kind, name, type_, four(ne)), True)

    def constant(self, array: np.ndarray) -> int:
        """A tensor of fixed values: F32, F16 or I32, in torch order, at most four dimensions."""
        array = np.ascontiguousarray(array)
        same = (
            key
            for key, known in self.constants.items()
            if known.dtype == array.dtype and known.shape == array.shape and np.array_equal(known, array)
        )
        key = next(same, f"constant.{len(self.constants)}")
        self.constants[key] = array
        type_ = {"float32": "F32", "float16": "F16", "int32": "I32"}[array.dtype.name]
        return self.leaf("constant", key, type_, tuple(reversed(array.shape)))

    def add(self, tensor: Tensor) -> int:
        """A row as it is; small operations that already stand in the table are not repeated."""
        seen = tensor.kind != "op" or tensor.name in ("view", "reshape", "permute")
        return self._append(tensor, seen or nbytes(tensor) <= _SHARED_BYTES)

    def op(
        self,
        name: str,
        *sources: int,
        ne: Sequence[int],
        type_: str = "F32",
        parameters: Sequence[int | float | str] = (),
    ) -> int:
        """An operation; small ones that already stand in the program are not repeated."""
        return self.add(Tensor("op", name, type_, four(ne), tuple(sources), tuple(parameters)))

    def nbytes(self, index: int) -> int:
        """Bytes of a tensor's elements."""
        return nbytes(self[index])

    def is_packed(self, index: int) -> bool:
        """Whether a tensor's elements lie without gaps, in its own order of dimensions."""
        tensor = self[index]
        if tensor.kind != "op" or tensor.name not in ("view", "permute"):
            return True
        if tensor.name == "permute":
            return False
        width = nbytes(tensor) // math.prod(tensor.ne[1:])
        steps = (width, tensor.ne[1] * width, tensor.ne[1] * tensor.ne[2] * width)
        dims = zip(tensor.ne[1:], tensor.parameters[4:7], steps, strict=True)
        return all(n == 1 or nb == step for n, nb, step in dims)

    def numel(self, index: int) -> int:
        """Elements of a tensor."""
        return math.prod(self[index].ne)

    def reshape(self, index: int, ne: Sequence[int]) -> int:
        """A contiguous tensor with other dimensions."""
        shape = four(ne)
        if self[index].ne == shape:
            return index
        while self[index].kind == "op" and self[index].name == "reshape":
            index = self[index].sources[0]
            if self[index].ne == shape:
                return index
        return self.op("reshape", index, ne=shape, type_=self[index].type)

    def window(self, index: int, dims: Sequence[tuple[int, int]], offset: int) -> int:
        """Dimensions (elements, stride in elements), fastest first with stride 1, from `offset` elements on."""
        tensor = self[index]
        ne = four([n for n, _ in dims])
        strides, step = [], 1
        for axis in range(4):
            strides.append(dims[axis][1] if axis < len(dims) and ne[axis] != 1 else step)
            step = strides[axis] * ne[axis]
        packed = all(stride == math.prod(ne[:axis]) for axis, stride in enumerate(strides) if ne[axis] != 1)
        if packed and offset == 0 and math.prod(ne) == self.numel(index):
            return self.reshape(index, ne)
        layout = LAYOUTS[tensor.type]
        if any(stride % layout.block for stride in (*strides[1:], offset)):
            raise ValueError(f"a window that cuts through the blocks of {tensor.type}")
        nb = [stride // layout.block * layout.nbytes for stride in (*strides[1:], offset)]
        while self[index].kind == "op" and self[index].name == "reshape":
            index = self[index].sources[0]
        return self.op("view", index, ne=ne, type_=tensor.type, parameters=(*ne, *nb))

    def permute(self, index: int, axes: Sequence[int]) -> int:
        """Axis i of the tensor becomes axis axes[i] of the result, in ggml's numbering."""
        ne = [0] * 4
        for axis, size in zip(axes, self[index].ne, strict=True):
            ne[axis] = size
        return self.op("permute", index, ne=ne, type_=self[index].type, parameters=tuple(axes))

    def cont(self, index: int) -> int:
        """A contiguous copy."""
        return self.op("cont", index, ne=self[index].ne, type_=self[index].type)

    def cast(self, index: int, type_: str) -> int:
        """A contiguous copy of another type."""
        return self.op("cast", index, ne=self[index].ne, type_=type_, parameters=(type_,))

    def program(self, outputs: Sequence[Output]) -> tuple[Program, list[str]]:
        """What the outputs need, in the order of `late`, and the place of each tensor."""
        kept = schedule(self.tensors, [output.tensor for output in outputs])
        number = {old: new for new, old in enumerate(kept)}
        tensors = []
        for old in kept:
            t = self[old]
            tensors.append(Tensor(t.kind, t.name, t.type, t.ne, tuple(number[s] for s in t.sources), t.parameters))
        used = {t.name for t in tensors if t.kind == "constant"}
        constants = {key: array for key, array in self.constants.items() if key in used}
        results = tuple(Output(number[output.tensor], output.shape) for output in outputs)
        return Program(tuple(tensors), results, constants), [self.module_paths[old] for old in kept]
