"""What fills a storage of the trace: a tensor that may hold its dimensions in another order than torch would."""

from __future__ import annotations

from dataclasses import dataclass

from ..trace.graph import Window
from .strides import Operand, Shape


@dataclass(frozen=True, slots=True)
class StorageLayout:
    """A dense tensor, and where each dimension of the storage is in it.

    storage_stride: strides of the dimensions in the storage; stride: in the tensor, both in elements.
    """

    tensor: int
    shape: Shape
    storage_stride: Shape
    stride: Shape

    @classmethod
    def torch_order(cls, tensor: int, size: int) -> StorageLayout:
        """A tensor of `size` elements that is laid out as the storage is."""
        return cls(tensor, (size,), (1,), (1,))

    @classmethod
    def of(cls, out: Window, made: Operand) -> StorageLayout:
        """A result for a window that covers its storage."""
        order = sorted(range(len(out.shape)), key=lambda i: (out.shape[i] != 1, -out.stride[i]))
        kept = [i for i in order if out.shape[i] != 1]
        shape, storage_stride, stride = (tuple(each[i] for i in kept) for each in (out.shape, out.stride, made.stride))
        return (
            cls(made.tensor, shape, storage_stride, stride)
            if storage_stride != stride
            else cls.torch_order(made.tensor, out.numel)
        )

    @property
    def whole(self) -> Operand:
        """The storage from its first element to its last."""
        return Operand(self.tensor, self.shape, self.stride)

    def window(self, window: Window) -> Operand | None:
        """A window of the storage as one on the tensor; None where one dimension of it would need two strides."""
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
