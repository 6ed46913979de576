"""Builds a program operation by operation; shapes and types of results follow from the table of operations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..ggml_types import LAYOUTS
from ..quota import check_rows
from .early_copies import copy_early
from .ops import OPERATIONS, parameters_of
from .parameters import Permute, View
from .program import Output, Program
from .schedule import schedule
from .tensor import Ne, Tensor, Value, nbytes, ne_of

_ROWS_BETWEEN = 64  # looks at the quota
_SHARED_BYTES = 1 << 20  # results up to this size are computed once and kept; larger ones would hold memory


class LowerError(NotImplementedError):
    """A model does what its programs cannot express; raised on purpose, with what it is."""


class Builder:
    """A growing table of tensors; every method returns the index of the tensor it names. Shapes are in torch order."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.constants: dict[str, np.ndarray] = {}
        self.module_paths: list[str] = []  # of each tensor, for messages
        self.module_path = ""
        self._seen: dict[Tensor, int] = {}

    def __getitem__(self, index: int) -> Tensor:
        return self.tensors[index]

    # -- leaves

    def leaf(self, kind: str, name: str, type_: str, shape: Sequence[int]) -> int:
        """An input, weight or constant; the same one each time it is asked for."""
        return self._append(Tensor(kind, name, type_, ne_of(shape)), share=True)

    def constant(self, array: np.ndarray) -> int:
        """A tensor of fixed values: F32, F16 or I32."""
        array = np.ascontiguousarray(array)
        same = (
            key
            for key, known in self.constants.items()
            if known.dtype == array.dtype and known.shape == array.shape and np.array_equal(known, array)
        )
        key = next(same, f"constant.{len(self.constants)}")
        self.constants[key] = array
        type_ = {"float32": "F32", "float16": "F16", "int32": "I32"}[array.dtype.name]
        return self.leaf("constant", key, type_, array.shape)

    def constant_without_values(self, type_: str, shape: Sequence[int]) -> int:
        """The same for what only counts bytes; each is one of its own."""
        key = f"constant.{len(self.constants)}"
        self.constants[key] = np.broadcast_to(np.zeros((), {"F32": np.float32, "I32": np.int32}[type_]), tuple(shape))
        return self.leaf("constant", key, type_, shape)

    # -- operations

    def op(self, name: str, *sources: int, **parameters: Value) -> int:
        """An operation of the table, with its parameters by name; small ones that are already there are not repeated.

        Raises TypeError where the table has other sources or parameters for it.
        """
        return self._make(name, sources, parameters_of(name, OPERATIONS[name].parameters(**parameters)))

    def shaped(self, name: str, source: int, shape: Sequence[int], **parameters: Value) -> int:
        """The same for an operation whose shape is a free choice: "repeat", "upscale"."""
        return self._make(name, (source,), parameters_of(name, OPERATIONS[name].parameters(**parameters)), ne_of(shape))

    def again(
        self, index: int, sources: Sequence[int], *, ne: Ne | None = None, parameters: tuple[Value, ...] | None = None
    ) -> int:
        """The operation at `index` on other sources; ne, parameters: in place of its own."""
        row = self[index]
        free = OPERATIONS[row.name].ne is None and ne is None
        return self._make(row.name, sources, row.parameters if parameters is None else parameters,
                          row.ne if free else ne)  # fmt: skip

    def _make(self, name: str, sources: Sequence[int], parameters: tuple[Value, ...], ne: Ne | None = None) -> int:
        operation, rows = OPERATIONS[name], [self[source] for source in sources]
        fewest, most = operation.sources
        if not fewest <= len(rows) <= most:
            raise TypeError(f"{name} takes {fewest} to {most} sources, not {len(rows)}")
        known = operation.ne(rows, parameters) if operation.ne else ne
        if known is None or (ne is not None and ne != known):
            raise TypeError(f"{name} needs a shape" if known is None else f"{name} makes ne {known}, not {ne}")
        tensor = Tensor("op", name, operation.type(rows, parameters), known, tuple(sources), parameters)
        return self._append(tensor, share=operation.is_view or nbytes(tensor) <= _SHARED_BYTES)

    def _append(self, tensor: Tensor, share: bool) -> int:
        known = self._seen.get(tensor) if share else None
        if known is not None:
            return known
        self.tensors.append(tensor)
        self.module_paths.append(self.module_path)
        self._seen[tensor] = len(self.tensors) - 1
        if len(self.tensors) % _ROWS_BETWEEN == 0:
            check_rows(len(self.tensors))
        return len(self.tensors) - 1

    def reshape(self, index: int, shape: Sequence[int]) -> int:
        """A contiguous tensor in another shape of as many elements."""
        ne = ne_of(shape)
        if self[index].ne == ne:
            return index
        while self._is(index, "reshape"):
            index = self[index].sources[0]
            if self[index].ne == ne:
                return index
        return self.shaped("reshape", index, shape)

    def window(self, index: int, dims: Sequence[tuple[int, int]], offset: int) -> int:
        """A view of dimensions (elements, stride), slowest first, from `offset` on; in elements.

        The fastest dimension has stride 1. Raises LowerError where elements overlap, and where it cuts through the
        blocks of a quantized type.
        """
        assert len(dims) <= 4, dims
        type_ = self[index].type
        layout = LAYOUTS[type_]
        shape = [n for n, _ in dims]
        ne = ne_of(shape)
        strides: list[int] = []
        step = whole = 1
        contiguous = True
        for n, stride in zip(ne, [stride for _, stride in reversed(dims)] + [0] * 4, strict=False):
            # Of a dimension of one the stride says nothing, but ggml_permute has it in 31 bits.
            some = step if step // layout.block * layout.nbytes < 1 << 31 else strides[-1]
            strides.append(stride if n != 1 else some)
            step = strides[-1] * n
            contiguous &= n == 1 or stride == whole
            whole *= n
        if contiguous and offset == 0 and whole == self.numel(index):
            return self.reshape(index, shape)
        if offset + whole > self.numel(index):  # ggml_new_tensor_impl takes elements for as many bytes
            raise LowerError(f"a window whose elements overlap: {dims} of {self.numel(index)}")
        if any(stride % layout.block for stride in (*strides[1:], offset)):
            raise LowerError(f"a window of {dims} from {offset} on cuts through the blocks of {type_}")
        nb1, nb2, nb3, start = (stride // layout.block * layout.nbytes for stride in (*strides[1:], offset))
        while self._is(index, "reshape"):
            index = self[index].sources[0]
        return self._make("view", (index,), View(*ne, nb1, nb2, nb3, start))

    def permute(self, index: int, axes: Sequence[int]) -> int:
        """Axis i of the tensor becomes axis axes[i] of the result, in ggml's numbering."""
        return self._make("permute", (index,), Permute(*axes))

    # -- facts

    def _is(self, index: int, name: str) -> bool:
        return self[index].kind == "op" and self[index].name == name

    def view(self, index: int) -> View | None:
        """The parameters of a view; None for any other tensor."""
        return View._make(self[index].parameters) if self._is(index, "view") else None

    def root(self, index: int) -> int:
        """The tensor whose memory a chain of views and reshapes shows."""
        while self._is(index, "view") or self._is(index, "reshape"):
            index = self[index].sources[0]
        return index

    def is_contiguous(self, index: int) -> bool:
        """Whether a tensor's elements are without gaps, in the order of its dimensions."""
        tensor, view = self[index], self.view(index)
        if view is None:
            return not self._is(index, "permute")
        width = nbytes(tensor) // math.prod(tensor.ne[1:])
        steps = (width, tensor.ne[1] * width, tensor.ne[1] * tensor.ne[2] * width)
        return all(n == 1 or nb == step for n, nb, step in zip(tensor.ne[1:], view.nb, steps, strict=True))

    def numel(self, index: int) -> int:
        """Elements of a tensor."""
        return math.prod(self[index].ne)

    def nbytes(self, index: int) -> int:
        """Bytes of a tensor's elements."""
        return nbytes(self[index])

    # -- the result

    def program(self, outputs: Sequence[Output]) -> tuple[Program, list[str]]:
        """The tensors that the outputs need, in the order of `schedule`, and the module path of each."""
        wanted = [output.tensor for output in outputs]
        rows, module_paths = [*self.tensors], [*self.module_paths]
        kept = copy_early(rows, module_paths, schedule(rows, wanted), wanted)
        number = {old: new for new, old in enumerate(kept)}
        tensors = tuple(
            Tensor(t.kind, t.name, t.type, t.ne, tuple(number[source] for source in t.sources), t.parameters)
            for t in (rows[old] for old in kept)
        )
        used = {tensor.name for tensor in tensors if tensor.kind == "constant"}
        constants = {key: array for key, array in self.constants.items() if key in used}
        results = tuple(Output(number[output.tensor], output.shape) for output in outputs)
        return Program(tensors, results, constants), [module_paths[old] for old in kept]
