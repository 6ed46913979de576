"""Element by element: one operand, or two with broadcasting, whatever their strides."""

from __future__ import annotations

from dataclasses import dataclass

from .builder import Builder
from .geometry import Operand, Shape, collapse, contiguous_stride, dense, physical_order


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a result goes: its shape, and its dimensions from the slowest in memory to the fastest."""

    shape: Shape
    order: tuple[int, ...]

    @classmethod
    def of(cls, shape: Shape, stride: Shape) -> Layout:
        """The layout of a dense window."""
        return cls(shape, physical_order(shape, stride))

    @property
    def memory(self) -> Shape:
        """The shape in memory order."""
        return tuple(self.shape[i] for i in self.order)


def unary(b: Builder, name: str, x: Operand, out: Layout, parameters: tuple[int | float | str, ...] = ()) -> int:
    """Apply an operation of one source to every element; the result lies in memory as `out` says."""
    x = x.broadcast(out.shape).permuted(out.order)
    groups = [(n, stride[0]) for n, stride in collapse(x.shape, [x.stride])]
    rows_apart = len(groups) <= 2 and groups[-1][1] == 1 and all(stride for _, stride in groups)
    if rows_apart and name not in ("scale", "clamp"):  # these two read contiguous memory only
        source = b.window(x.tensor, list(reversed(groups)), x.offset)
    else:
        source = dense(b, x)
    return b.op(name, source, ne=b[source].ne, parameters=parameters)


def binary(b: Builder, name: str, first: Operand, second: Operand, out: Layout) -> int:
    """Apply an operation of two sources, each repeated to the result's shape where it is smaller."""
    left, right = (x.broadcast(out.shape).permuted(out.order) for x in (first, second))
    for whole in (False, False, True):
        groups = collapse(out.memory, [left.stride, right.stride])
        if len(groups) > 4 or groups[-1][1][0] not in (0, 1):
            left = _made_dense(b, left, whole)
        if len(groups) > 4 or groups[-1][1][1] not in (0, 1):
            right = _made_dense(b, right, whole)
    groups = collapse(out.memory, [left.stride, right.stride])
    if name in ("add", "mul") and any(strides[0] == 0 for _, strides in groups):
        left, right = right, left  # ggml repeats the second source only
        groups = [(n, (strides[1], strides[0])) for n, strides in groups]
    sources = [
        b.window(x.tensor, [(n if strides[k] else 1, strides[k]) for n, strides in reversed(groups)], x.offset)
        for k, x in enumerate((left, right))
    ]
    ne = [n for n, _ in reversed(groups)]
    if any(strides[0] == 0 for _, strides in groups):
        sources[0] = b.op("repeat", sources[0], ne=ne)
    return b.op(name, *sources, ne=ne)


def _made_dense(b: Builder, x: Operand, whole: bool) -> Operand:
    """A copy of x that is contiguous in x's order; what was repeated stays so, unless the whole is asked for."""
    shape = tuple(1 if stride == 0 and not whole else n for n, stride in zip(x.shape, x.stride, strict=True))
    copy = Operand(dense(b, Operand(x.tensor, shape, x.stride, x.offset)), shape, contiguous_stride(shape))
    return copy.broadcast(x.shape)
