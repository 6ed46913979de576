"""The content of a storage of the trace: its layout in a program tensor, and writes into windows of it."""

from __future__ import annotations

from dataclasses import dataclass

from ..program.builder import Builder, LowerError
from ..trace.graph import Window
from .strides import Operand, Shape, collapse, contiguous, physical_order

_F32_BYTES = 4


@dataclass(frozen=True, slots=True)
class StorageLayout:
    """The tensor that holds a storage, which may have the storage's dimensions in another order of memory.

    shape: of the storage; storage_stride: strides of its dimensions in the storage; stride: in the tensor; in elements.
    """

    tensor: int
    shape: Shape
    storage_stride: Shape
    stride: Shape

    @classmethod
    def torch_order(cls, tensor: int, size: int) -> StorageLayout:
        """A tensor of `size` elements in the order of the storage."""
        return cls(tensor, (size,), (1,), (1,))

    @classmethod
    def of(cls, out: Window, made: Operand) -> StorageLayout:
        """The layout of a storage that a result covers: window `out` of it."""
        order = physical_order(out.shape, out.stride)
        sizes, *steps = (tuple(each[i] for i in order) for each in (out.shape, out.stride, made.stride))
        groups = collapse(sizes, steps)
        shape = tuple(n for n, _ in groups)
        storage_stride, stride = (tuple(step[k] for _, step in groups) for k in (0, 1))
        return (
            cls(made.tensor, shape, storage_stride, stride)
            if storage_stride != stride
            else cls.torch_order(made.tensor, out.numel)
        )

    @property
    def operand(self) -> Operand:
        """All of the storage, in the order of its elements."""
        return Operand(self.tensor, self.shape, self.stride)

    def window(self, window: Window) -> Operand | None:
        """A window of the storage as one on the tensor; None where a dimension of it has no single stride there."""
        if self.storage_stride == self.stride:
            return Operand(self.tensor, window.shape, window.stride, window.offset)
        reached, rest = [], window.offset
        for step in self.storage_stride:
            index, rest = divmod(rest, step)
            reached.append(index)
        offset = sum(index * step for index, step in zip(reached, self.stride, strict=True))
        strides = []
        for n, step in zip(window.shape, window.stride, strict=True):
            along = next((k for k, storage_stride in enumerate(self.storage_stride) if storage_stride <= step), None)
            if n == 1 or along is None:
                if n != 1 and step:
                    return None
                strides.append(0 if n != 1 else 1)
                continue
            reached[along] += (n - 1) * step // self.storage_stride[along]
            if step % self.storage_stride[along] or reached[along] >= self.shape[along]:
                return None
            strides.append(step // self.storage_stride[along] * self.stride[along])
        return Operand(self.tensor, window.shape, tuple(strides), offset)


def written(b: Builder, before: Operand, piece: int, out: Window) -> int:
    """A copy of a storage with a window of it replaced, in the storage's order.

    before: the storage, [size]; piece: the new content of the window `out`, contiguous in the order of its memory.
    Raises LowerError where the window's dimensions do not merge to four or it repeats elements.
    """
    (size,), whole = before.shape, contiguous(b, before)
    target = Operand(piece, out.shape, out.stride, out.offset).permuted(physical_order(out.shape, out.stride))
    groups = [(n, stride[0]) for n, stride in collapse(target.shape, [target.stride])]
    length, step = groups[-1]
    count, pitch = groups[0] if len(groups) == 2 else (1, size)
    if len(groups) > 2 or step != 1 or count * pitch != size or out.offset + length > pitch:
        return _set(b, whole, piece, out, groups)
    end = out.offset + length
    parts = [
        b.window(whole, [(count, pitch), (n, 1)], start)
        for start, n in ((0, out.offset), (end, pitch - end)) if n
    ]  # fmt: skip
    parts.insert(min(out.offset, 1), b.reshape(piece, (count, length)))
    result = parts[0]
    for part in parts[1:]:
        result = b.op("concat", result, part, dim=0)
    return result


def _set(b: Builder, whole: int, piece: int, out: Window, groups: list[tuple[int, int]]) -> int:
    """The same for a window of several dimensions (elements, stride), slowest first."""
    size = b.numel(whole)
    if groups[-1][1] != 1:
        groups = [*groups, (1, 1)]
    if len(groups) > 4 or any(stride == 0 for _, stride in groups):
        raise LowerError(f"a write into a window {out.shape} with strides {out.stride} of {size} elements")
    strides = [stride for _, stride in reversed(groups[:-1])]
    nb1, nb2, nb3 = (_F32_BYTES * stride for stride in (*strides, *[size] * (3 - len(strides))))
    window = b.reshape(piece, [n for n, _ in groups])
    return b.op("set", b.window(whole, [(size, 1)], 0), window,
                nb1=nb1, nb2=nb2, nb3=nb3, offset=_F32_BYTES * out.offset)  # fmt: skip
