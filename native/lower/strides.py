"""Strided windows on program tensors, and the ggml views, copies and elementwise operations on them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..program.builder import Builder, LowerError
from ..program.ops import OPERATIONS
from ..program.tensor import Value

Shape = tuple[int, ...]
Group = tuple[int, tuple[int, ...]]  # elements, and the stride of each operand
_PADS = ("l0", "r0", "l1", "r1", "l2", "r2", "l3", "r3")  # of ggml's pad, before and after each dimension


@dataclass(frozen=True, slots=True)
class Operand:
    """A strided window (in elements, torch order) on a program tensor whose memory has no gaps."""

    tensor: int
    shape: Shape
    stride: Shape
    offset: int = 0

    @property
    def numel(self) -> int:
        """Elements of the window."""
        return math.prod(self.shape)

    def permuted(self, order: Sequence[int]) -> Operand:
        """The same window with its dimensions in another order."""
        return replace(self, shape=tuple(self.shape[i] for i in order), stride=tuple(self.stride[i] for i in order))

    def narrowed(self, dim: int, start: int, count: int, step: int = 1) -> Operand:
        """`count` elements along a dimension, each `step` after the one before."""
        shape, stride = list(self.shape), list(self.stride)
        shape[dim], stride[dim] = count, stride[dim] * step
        return replace(self, shape=tuple(shape), stride=tuple(stride), offset=self.offset + start * self.stride[dim])

    def broadcast(self, shape: Shape) -> Operand:
        """The window expanded to `shape`: a repeated dimension has stride 0."""
        missing = len(shape) - len(self.shape)
        own = (1,) * missing + self.shape
        stride = (0,) * missing + self.stride
        return replace(self, shape=shape, stride=tuple(0 if n == 1 else s for n, s in zip(own, stride, strict=True)))


def contiguous_stride(shape: Sequence[int]) -> Shape:
    """Strides of a contiguous tensor."""
    stride, step = [], 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return tuple(reversed(stride))


def is_contiguous(shape: Shape, stride: Shape) -> bool:
    """Whether a window has no gaps, in the order of its dimensions."""
    return all(n == 1 or s == c for n, s, c in zip(shape, stride, contiguous_stride(shape), strict=True))


def physical_order(shape: Shape, stride: Shape) -> tuple[int, ...]:
    """Dimensions from the slowest in memory to the fastest; those of one element come first."""
    return tuple(sorted(range(len(shape)), key=lambda i: (shape[i] != 1, -stride[i])))


def covers(shape: Shape, stride: Shape, offset: int, numel: int) -> bool:
    """Whether a window has every one of a storage's `numel` elements once, in whatever order of dimensions."""
    if offset or math.prod(shape) != numel:
        return False
    order = physical_order(shape, stride)
    step = 1
    for i in reversed(order):
        if shape[i] != 1 and stride[i] != step:
            return False
        step *= shape[i]
    return True


def collapse(shape: Shape, strides: Sequence[Shape]) -> list[Group]:
    """Merge neighbouring dimensions wherever one stride per operand does for both; slowest first, none of size 1."""
    groups: list[Group] = []
    for i, size in enumerate(shape):
        if size == 1:
            continue
        step = tuple(stride[i] for stride in strides)
        if groups and all(outer == inner * size for outer, inner in zip(groups[-1][1], step, strict=True)):
            groups[-1] = (groups[-1][0] * size, step)
        else:
            groups.append((size, step))
    return groups or [(1, (1,) * len(strides))]


def view(b: Builder, x: Operand, groups: Sequence[tuple[int, int]]) -> int:
    """A ggml tensor of the given (elements, stride) dimensions, slowest first, on x's tensor; at most four.

    No stride may be 0. Where the last dimension is not the fastest in memory the result is permuted, which only cont,
    cast and concat take. Raises LowerError where there are more than four.
    """
    count = len(groups)
    order = sorted(range(count), key=lambda i: -groups[i][1])  # memory order, slowest first
    memory = [groups[i] for i in order]
    strided = int(memory[-1][1] != 1 and memory[-1][0] != 1)  # ggml wants an innermost stride of one element
    memory += [(1, 1)] * strided
    if len(memory) > 4:
        raise LowerError(f"a window of {len(memory)} dimensions (elements, stride): {memory}")
    in_memory_order = b.window(x.tensor, memory, x.offset)
    if not strided and order == list(range(count)):
        return in_memory_order
    axes = {count - 1 - position + strided: count - 1 - group for position, group in enumerate(order)}
    if strided:
        axes[0] = count
    spare = iter(sorted(set(range(4)) - set(axes.values())))
    return b.permute(in_memory_order, [axes[axis] if axis in axes else next(spare) for axis in range(4)])


def strided_dimensions(groups: Sequence[tuple[int, int]]) -> int:
    """How many ggml dimensions `view` needs for these (elements, stride) groups."""
    return len(groups) + (min(stride for _, stride in groups) != 1)


def contiguous(b: Builder, x: Operand) -> int:
    """x as a tensor that is contiguous in x's own order of dimensions; copied only where it is not."""
    groups = [(n, stride[0]) for n, stride in collapse(x.shape, [x.stride])]
    if len(groups) == 1 and groups[0][1] == 1:
        return b.window(x.tensor, groups, x.offset)
    if any(stride == 0 for _, stride in groups):
        return _repeated(b, x, groups)
    if strided_dimensions(groups) <= 4:
        return b.op("cont", view(b, x, groups))
    return _contiguous_by_steps(b, x, groups)


def _repeated(b: Builder, x: Operand, groups: list[tuple[int, int]]) -> int:
    """Copies of a window along its dimensions of stride 0, one dimension after the other."""
    sizes = [1 if stride == 0 else n for n, stride in groups]
    current = contiguous(b, Operand(x.tensor, tuple(sizes), tuple(stride or 1 for _, stride in groups), x.offset))
    for i in reversed(range(len(groups))):
        if groups[i][1] == 0:
            inner, outer = math.prod(sizes[i + 1 :]), math.prod(sizes[:i])
            sizes[i] = groups[i][0]
            current = b.shaped("repeat", b.reshape(current, (outer, 1, inner)), (outer, sizes[i], inner))
    return current


def _contiguous_by_steps(b: Builder, x: Operand, groups: list[tuple[int, int]]) -> int:
    """More than four dimensions that do not merge: copied in memory order, then permuted one dimension at a time."""
    order = sorted(range(len(groups)), key=lambda i: -groups[i][1])
    memory = Operand(x.tensor, tuple(groups[i][0] for i in order), tuple(groups[i][1] for i in order), x.offset)
    if strided_dimensions([(n, s[0]) for n, s in collapse(memory.shape, [memory.stride])]) > 4:
        raise LowerError(f"a window with more than four separate dimensions (elements, stride): {groups}")
    current = contiguous(b, memory)
    sizes = [n for n, _ in groups]
    for target in range(len(order)):
        source = order.index(target)
        if source == target:
            continue
        before, between, moved, after = (
            math.prod(sizes[order[i]] for i in span)
            for span in (range(target), range(target, source), (source,), range(source + 1, len(order)))
        )
        cube = b.reshape(current, (before, between, moved, after))
        current = b.op("cont", b.permute(cube, [0, 2, 1, 3]))
        order.insert(target, order.pop(source))
    return current


def padded(b: Builder, x: Operand, amounts: Sequence[tuple[int, int]]) -> Operand:
    """x with so many zeros before and after each dimension, in x's own order of dimensions."""
    dims = [dim for dim, amount in enumerate(amounts) if any(amount)]
    if not dims:
        return x
    between = sum(1 for dim in range(len(amounts)) if dim not in dims and (dim == 0 or dim - 1 in dims))
    for together in [dims] if len(dims) + between <= 4 else [[dim] for dim in dims]:
        x = _padded(b, x, [amount if dim in together else (0, 0) for dim, amount in enumerate(amounts)])
    return x


def _padded(b: Builder, x: Operand, amounts: Sequence[tuple[int, int]]) -> Operand:
    """The same where ggml's four dimensions are enough; neighbours without any zeros are one dimension."""
    sizes: list[int] = []
    around: list[tuple[int, int]] = []
    for n, amount in zip(x.shape, amounts, strict=True):
        if around and amount == around[-1] == (0, 0):
            sizes[-1] *= n
        else:
            sizes.append(n)
            around.append(amount)
    by_axis = [0] * (8 - 2 * len(around)) + [n for amount in around for n in reversed(amount)]
    result = b.op("pad", b.reshape(contiguous(b, x), sizes), **dict(zip(_PADS, reversed(by_axis), strict=True)))
    shape = tuple(n + sum(amount) for n, amount in zip(x.shape, amounts, strict=True))
    return Operand(result, shape, contiguous_stride(shape))


def rows(b: Builder, x: Operand, inner: int = 1) -> int:
    """x as rows for an operation over its last `inner` dimensions: those contiguous, the others in at most three."""
    head, length = x.shape[: len(x.shape) - inner], math.prod(x.shape[len(x.shape) - inner :])
    if _ends_contiguous(x, inner):
        lead = [(n, s[0]) for n, s in collapse(head, [x.stride[: len(head)]])] if math.prod(head) != 1 else []
        descending = all(a[1] >= c[1] for a, c in itertools.pairwise(lead))
        if len(lead) <= 3 and descending and all(s >= length for _, s in lead):
            return b.window(x.tensor, [*lead, (length, 1)], x.offset)
    return b.reshape(contiguous(b, x), (math.prod(head), length))


def norm_rows(b: Builder, x: Operand, inner: int) -> Operand:
    """x as rows over its last `inner` dimensions, the others in memory's order, each a dimension of its own if three.

    Returns the operand that a contiguous result in that order of dimensions is; its tensor is still the rows.
    """
    lead = len(x.shape) - inner
    order = physical_order(x.shape[:lead], x.stride[:lead]) + tuple(range(lead, len(x.shape)))
    memory, length = x.permuted(order), math.prod(x.shape[lead:])
    outer = [(n, s) for n, s in zip(memory.shape[:lead], memory.stride[:lead], strict=True) if n != 1]
    if not _ends_contiguous(memory, inner) or len(outer) > 3 or any(s < length for _, s in outer):
        return Operand(rows(b, x, inner), x.shape, contiguous_stride(x.shape))
    strides = contiguous_stride(memory.shape)
    stride = tuple(strides[order.index(i)] for i in range(len(order)))
    return Operand(b.window(x.tensor, [*outer, (length, 1)], x.offset), x.shape, stride)


def _ends_contiguous(x: Operand, inner: int) -> bool:
    """Whether the last `inner` dimensions of a window have no gaps."""
    return is_contiguous(x.shape[len(x.shape) - inner :], x.stride[len(x.shape) - inner :])


def rows_packed(b: Builder, index: int) -> int:
    """A factor of mul_mat without gaps, as ggml's Vulkan kernels need it for right and exact results.

    They step from one matrix to the next by its size, not by its stride, where there is no gap between rows; where
    there is one they copy the factor as F16 (ggml-vulkan.cpp, ggml_vk_mul_mat_q_f16 and ggml_vk_mul_mat_vec_q_f16).
    """
    return index if b.is_contiguous(index) else b.op("cont", index)


@dataclass(frozen=True, slots=True)
class Layout:
    """The memory of a result: its shape, and its dimensions from the slowest in memory to the fastest."""

    shape: Shape
    order: tuple[int, ...]

    @classmethod
    def of(cls, shape: Shape, stride: Shape) -> Layout:
        """The layout of a window without gaps."""
        return cls(shape, physical_order(shape, stride))

    @property
    def memory(self) -> Shape:
        """The shape in memory order."""
        return tuple(self.shape[i] for i in self.order)


def unary(b: Builder, name: str, x: Operand, out: Layout, **parameters: Value) -> int:
    """Apply an operation of one source to every element; the result has the layout `out`."""
    x = x.broadcast(out.shape).permuted(out.order)
    groups = [(n, stride[0]) for n, stride in collapse(x.shape, [x.stride])]
    is_rows = len(groups) <= 2 and groups[-1][1] == 1 and all(stride for _, stride in groups)
    readable = is_rows and not OPERATIONS[name].contiguous
    return b.op(name, b.window(x.tensor, groups, x.offset) if readable else contiguous(b, x), **parameters)


def binary(b: Builder, name: str, first: Operand, second: Operand, out: Layout) -> int:
    """Apply an operation of two sources, each repeated to the result's shape where it is smaller."""
    left, right = (x.broadcast(out.shape).permuted(out.order) for x in (first, second))
    groups = collapse(out.memory, [left.stride, right.stride])
    for expand in (False, False, True):
        unfit = [len(groups) > 4 or step not in (0, 1) for step in groups[-1][1]]
        if not any(unfit):
            break
        if unfit[0]:
            left = _copied(b, left, expand)
        if unfit[1]:
            right = _copied(b, right, expand)
        groups = collapse(out.memory, [left.stride, right.stride])
    if name in ("add", "mul") and any(strides[0] == 0 for _, strides in groups):
        left, right = right, left  # ggml repeats the second source only
        groups = [(n, (strides[1], strides[0])) for n, strides in groups]
    sources = [
        b.window(x.tensor, [(n if strides[k] else 1, strides[k]) for n, strides in groups], x.offset)
        for k, x in enumerate((left, right))
    ]
    if any(strides[0] == 0 for _, strides in groups):
        sources[0] = b.shaped("repeat", sources[0], [n for n, _ in groups])
    return b.op(name, *sources)


def _copied(b: Builder, x: Operand, expand: bool) -> Operand:
    """A copy of x that is contiguous in x's order; its dimensions of stride 0 stay so unless they are expanded."""
    shape = tuple(1 if stride == 0 and not expand else n for n, stride in zip(x.shape, x.stride, strict=True))
    copy = Operand(contiguous(b, Operand(x.tensor, shape, x.stride, x.offset)), shape, contiguous_stride(shape))
    return copy.broadcast(x.shape)
