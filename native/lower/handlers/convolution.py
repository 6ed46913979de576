"""Handlers of convolutions: which of ggml's operations compute one, alone or together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...program.builder import Builder
from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import Layout, Operand, Shape, binary, contiguous, contiguous_stride, padded, rows
from .convolution_transposed import transposed_convolution
from .data_movement import concat_all, taken

# Floating-point operations of one convolution of a volume, which a device cannot be made to interrupt: two segments of
# the slowest cards whose drivers end long work (native/runner/device/quirks.py, WATCHED).
LARGEST_OPERATION = 4e11


@dataclass(frozen=True, slots=True)
class Sliding:
    """How a kernel moves over a picture or volume, in torch's order of dimensions."""

    stride: Shape
    padding: Shape
    dilation: Shape

    def size(self, x: Shape, kernel: Shape) -> Shape:
        """The size of the result for an x and a kernel of these sizes."""
        return tuple(
            (n + 2 * pad - step * (k - 1) - 1) // stride + 1
            for n, k, stride, pad, step in zip(x, kernel, self.stride, self.padding, self.dilation, strict=True)
        )


@handler("convolution")
def convolution(
    low: Lowering, out: Window, x: Window, weight: Window, bias: Window | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Operand:  # fmt: skip
    """A convolution of x [batch, channels, *size] of one to three dimensions with weight [out, in / groups, *kernel].

    Transposed: with weight [in, out / groups, *kernel].
    """
    source, kernel = low.operand(x), _kernel(low, weight)
    stride, padding, dilation = (
        tuple(each) * (len(x.shape) - 2 if len(each) == 1 else 1) for each in (stride, padding, dilation)
    )
    if transposed and groups == weight.shape[0] > 1:
        result = _depthwise_transposed(low, source, kernel, stride, padding, dilation, out.shape)
    elif transposed:
        result = transposed_convolution(low, source, kernel, stride, padding, dilation, groups, out.shape)
    else:
        result = _convolved(low, source, kernel, Sliding(stride, padding, dilation), groups)
    return result if bias is None else _biased(low, result, low.operand(bias))


def _biased(low: Lowering, x: Operand, bias: Operand) -> Operand:
    """x [batch, channels, *size] with a number added to each channel, in the shape that the convolution has made."""
    ne, channels, size = low.b[x.tensor].ne, x.shape[1], math.prod(x.shape[2:])
    axis = next((axis for axis in range(1, 4) if math.prod(ne[:axis]) == size and ne[axis] == channels), None)
    if axis is not None and x.stride == contiguous_stride(x.shape) and x.numel == math.prod(ne):
        line = low.b.reshape(contiguous(low.b, bias), (channels, *[1] * axis))
        return replace(x, tensor=low.b.op("add", x.tensor, line))
    rest = len(x.shape) - 2
    line_of_channels = replace(bias, shape=(1, channels, *[1] * rest), stride=(0, *bias.stride, *[0] * rest))
    return replace(x, tensor=binary(low.b, "add", x, line_of_channels, Layout.of(x.shape, x.stride)))


def _kernel(low: Lowering, weight: Window) -> Operand:
    """A kernel without gaps, in F16 if it is stored so, else in F32."""
    kernel = low.stored(weight)
    if low.b[kernel.tensor].type not in ("F32", "F16"):
        kernel = low.operand(weight)
    return Operand(contiguous(low.b, kernel), weight.shape, contiguous_stride(weight.shape))


def _convolved(low: Lowering, x: Operand, kernel: Operand, sliding: Sliding, groups: int) -> Operand:
    """The convolution in the form that fits: over patches, for each channel alone, or group by group."""
    size, side = x.shape[2:], kernel.shape[2:]
    apart = side == sliding.stride and not any(sliding.padding) and set(sliding.dilation) <= {1}
    widens = math.prod(size) * x.shape[1] < math.prod(sliding.size(size, side)) * kernel.shape[0]
    depthwise = groups > 1 and kernel.shape[1] == 1
    if apart and not depthwise and (groups > 1 or (widens and math.prod(side) > 1)):
        return _over_patches(low, x, kernel, groups)
    if depthwise:
        return _depthwise(low, x, kernel, sliding)
    outputs, inputs = kernel.shape[0] // groups, kernel.shape[1]
    parts = [
        _in_parts(low, x.narrowed(1, g * inputs, inputs), kernel.narrowed(0, g * outputs, outputs), sliding)
        for g in range(groups)
    ]
    return concat_all(low, parts, 1)


def _in_parts(low: Lowering, x: Operand, kernel: Operand, sliding: Sliding) -> Operand:
    """A convolution, one part of the frames after the other (or of the rows, of few frames) where all are too much."""
    shape = (x.shape[0], kernel.shape[0], *sliding.size(x.shape[2:], kernel.shape[2:]))
    count = math.ceil(2.0 * math.prod(shape) * math.prod(kernel.shape[1:]) / LARGEST_OPERATION)
    if len(shape) < 5 or count == 1:
        return _direct(low, x, kernel, sliding)
    along = 0 if shape[2] >= count else 1
    dim, pad, stride = 2 + along, sliding.padding[along], sliding.stride[along]
    x = padded(low.b, x, [(pad, pad) if i == dim else (0, 0) for i in range(5)])
    sliding = replace(sliding, padding=tuple(0 if i == along else n for i, n in enumerate(sliding.padding)))
    reach = sliding.dilation[along] * (kernel.shape[dim] - 1) + 1
    step = -(-shape[dim] // count)
    spans = [(start, min(step, shape[dim] - start)) for start in range(0, shape[dim], step)]
    parts = [x.narrowed(dim, start * stride, (n - 1) * stride + reach) for start, n in spans]
    return concat_all(low, [_direct(low, part, kernel, sliding) for part in parts], dim)


def _direct(low: Lowering, x: Operand, kernel: Operand, sliding: Sliding) -> Operand:
    """One of ggml's convolutions; a line of samples is a picture of height 1."""
    b = low.b
    in_kernel_type = b[kernel.tensor].type != "F32"  # ggml converts what it convolves to the type of the kernel
    picture, weight = contiguous(b, x), contiguous(b, kernel)
    if in_kernel_type:
        picture = low.scale_down(picture)
    shape = (x.shape[0], kernel.shape[0], *sliding.size(x.shape[2:], kernel.shape[2:]))
    if len(x.shape) == 5:
        picture = b.reshape(picture, (x.shape[0] * x.shape[1], *x.shape[2:]))
        weight = b.reshape(weight, (kernel.shape[0] * kernel.shape[1], *kernel.shape[2:]))
        result = b.op("conv_3d", weight, picture, batch=x.shape[0], **_moves(sliding))
    else:
        picture, weight = b.reshape(picture, _flat(x.shape)), b.reshape(weight, _flat(kernel.shape))
        result = b.op("conv_2d", weight, picture, **_moves(_in_plane(sliding)))
    return Operand(low.unscale(result) if in_kernel_type else result, shape, contiguous_stride(shape))


def _flat(shape: Shape) -> Shape:
    """Samples as a picture of height 1."""
    return shape if len(shape) == 4 else (*shape[:2], 1, shape[2])


def _in_plane(sliding: Sliding) -> Sliding:
    """The same along the last two dimensions; there is no other where samples are a picture of height 1."""
    stride, padding, dilation = sliding.stride, sliding.padding, sliding.dilation
    return Sliding((1, *stride)[-2:], (0, *padding)[-2:], (1, *dilation)[-2:])


def _moves(sliding: Sliding) -> dict[str, int]:
    """The parameters of ggml's convolutions, whose first dimension is the last one here."""
    named = (("stride", sliding.stride), ("pad", sliding.padding), ("dilation", sliding.dilation))
    return {f"{name}{axis}": n for name, values in named for axis, n in enumerate(reversed(values))}


def _over_patches(low: Lowering, x: Operand, kernel: Operand, groups: int) -> Operand:
    """A kernel that moves by its own size as a product of patches: channels of the result are next to each other.

    That is the order in which transformers take what patches become, and reads and writes no element twice.
    """
    b = low.b
    batch, outputs, side = x.shape[0], kernel.shape[0], kernel.shape[2:]
    size = tuple(n // k for n, k in zip(x.shape[2:], side, strict=True))
    inputs = x.shape[1] // groups
    dims = [(batch, x.stride[0]), (groups, x.stride[1] * inputs), (inputs, x.stride[1])]
    for n, k, step in zip(size, side, x.stride[2:], strict=True):
        dims += [(n, step * k), (k, step)]
    split = Operand(x.tensor, tuple(n for n, _ in dims), tuple(step for _, step in dims), x.offset)
    across, within = range(3, len(dims), 2), range(4, len(dims), 2)
    patches = contiguous(b, split.permuted((1, 0, *across, 2, *within)))
    length, count = math.prod(kernel.shape[1:]), math.prod(size)
    shape = (batch, outputs, *size)
    if groups == 1:
        columns = low.scale_down(b.reshape(patches, (batch * count, length)))
        matrix = rows(b, Operand(kernel.tensor, (outputs, length), (length, 1)))
        stride = (outputs * count, 1, *(step * outputs for step in contiguous_stride(size)))
        return Operand(low.unscale(b.op("mul_mat", matrix, columns)), shape, stride)
    columns = low.scale_down(b.reshape(patches, (groups, batch * count, length)))
    matrix = b.reshape(kernel.tensor, (groups, outputs // groups, length))
    by_group = (groups, batch, count, outputs // groups)
    result = Operand(low.unscale(b.op("mul_mat", matrix, columns)), by_group, contiguous_stride(by_group))
    return Operand(contiguous(b, result.permuted((1, 0, 3, 2))), shape, contiguous_stride(shape))


def _depthwise(low: Lowering, x: Operand, kernel: Operand, sliding: Sliding) -> Operand:
    """Every channel with kernels of its own: as many as there are results of a channel."""
    b = low.b
    (batch, channels), side = x.shape[:2], kernel.shape[2:]
    times = kernel.shape[0] // channels
    by_channel = (channels, times, *side)
    in_f32 = kernel.tensor if b[kernel.tensor].type == "F32" else b.op("cast", kernel.tensor, type="F32")
    kernels = Operand(in_f32, by_channel, contiguous_stride(by_channel))
    parts = []
    for number in range(times):
        one = kernels.narrowed(1, number, 1)
        made = _depthwise_3d(low, x, one, sliding) if len(side) == 3 else _depthwise_2d(low, x, one, sliding)
        parts.append(replace(made, shape=(batch, channels, 1, *made.shape[2:]),
                             stride=(*made.stride[:2], 1, *made.stride[2:])))  # fmt: skip
    if times == 1:
        return replace(parts[0], shape=(batch, channels, *parts[0].shape[3:]),
                       stride=(*parts[0].stride[:2], *parts[0].stride[3:]))  # fmt: skip
    shape = (batch, channels * times, *parts[0].shape[3:])
    return Operand(contiguous(b, concat_all(low, parts, 2)), shape, contiguous_stride(shape))


def _depthwise_2d(low: Lowering, x: Operand, kernel: Operand, sliding: Sliding) -> Operand:
    """The same with one kernel [channels, 1, *kernel] for each channel of pictures or samples."""
    b = low.b
    picture = b.reshape(contiguous(b, x), _flat(x.shape))
    weight = b.reshape(contiguous(b, kernel), _flat(kernel.shape))
    result = b.op("conv_2d_dw", weight, picture, **_moves(_in_plane(sliding)))
    shape = (*x.shape[:2], *sliding.size(x.shape[2:], kernel.shape[2:]))
    return Operand(result, shape, contiguous_stride(shape))


def _depthwise_3d(low: Lowering, x: Operand, kernel: Operand, sliding: Sliding) -> Operand:
    """The same of volumes: the sum of what each plane of the kernel makes of the planes of the volume that it meets."""
    b = low.b
    batch, channels = x.shape[:2]
    count, *size = sliding.size(x.shape[2:], kernel.shape[2:])
    pad = sliding.padding[0]
    x = padded(b, x, [(pad, pad) if i == 2 else (0, 0) for i in range(5)])
    total: int | None = None
    for plane in range(kernel.shape[2]):
        met = x.narrowed(2, plane * sliding.dilation[0], count, sliding.stride[0]).permuted((0, 2, 1, 3, 4))
        pictures = b.reshape(contiguous(b, met), (batch * count, channels, *x.shape[3:]))
        weight = b.reshape(contiguous(b, kernel.narrowed(2, plane, 1)), (channels, 1, *kernel.shape[3:]))
        made = b.op("conv_2d_dw", weight, pictures, **_moves(_in_plane(sliding)))
        total = made if total is None else b.op("add", total, made)
    assert total is not None
    result = (batch, count, channels, *size)
    return Operand(total, result, contiguous_stride(result)).permuted((0, 2, 1, 3, 4))


def _depthwise_transposed(
    low: Lowering, x: Operand, kernel: Operand, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], out: Shape,
) -> Operand:  # fmt: skip
    """Every channel spread by kernels of its own: they move, turned around, over the channel with gaps of zeros."""
    b = low.b
    times = kernel.shape[1]
    for dim in range(2, len(out)):
        side, axis = kernel.shape[dim], dim - 2
        kernel = taken(low, kernel, dim, range(side - 1, -1, -1))
        x = _with_gaps(b, x, dim, stride[axis])
        reach = dilation[axis] * (side - 1)
        before = reach - padding[axis]
        after = out[dim] + reach - before - x.shape[dim]
        first, last = max(0, -before), max(0, -after)
        x = x.narrowed(dim, first, x.shape[dim] - first - last)
        amount = max(0, before), max(0, after)
        x = padded(b, x, [amount if i == dim else (0, 0) for i in range(len(out))])
    shape = (kernel.shape[0] * times, 1, *kernel.shape[2:])
    turned = Operand(contiguous(b, kernel), shape, contiguous_stride(shape))
    axes = len(out) - 2
    return _depthwise(low, x, turned, Sliding((1,) * axes, (0,) * axes, tuple(dilation)))


def _with_gaps(b: Builder, x: Operand, dim: int, stride: int) -> Operand:
    """x with `stride - 1` zeros after every element along a dimension."""
    if stride == 1:
        return x
    outer, inner = math.prod(x.shape[: dim + 1]), math.prod(x.shape[dim + 1 :])
    apart = Operand(contiguous(b, x), (outer, 1, inner), (inner, inner, 1))
    shape = (*x.shape[:dim], x.shape[dim] * stride, *x.shape[dim + 1 :])
    return Operand(padded(b, apart, [(0, 0), (0, stride - 1), (0, 0)]).tensor, shape, contiguous_stride(shape))
