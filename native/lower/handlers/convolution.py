"""Handlers of convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from ...program.builder import LowerError
from ...trace.graph import Window
from ..lowering import Lowering, handler
from ..strides import contiguous


@handler("convolution")
def convolution(
    low: Lowering, out: Window, x: Window, weight: Window, bias: Window | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, _output_padding: Sequence[int], groups: int,
) -> int:  # fmt: skip
    """A 2-D convolution of x [batch, channels, height, width] with weight [out, in, kernel, kernel]."""
    if transposed or groups != 1 or len(x.shape) != 4:
        raise LowerError(f"a convolution of {x.shape} with {weight.shape}, groups {groups}, transposed {transposed}")
    b = low.b
    picture = b.reshape(contiguous(b, low.operand(x)), x.shape)
    kernel = low.stored(weight).tensor
    in_kernel_type = b[kernel].type != "F32"  # ggml converts the picture to the type of the kernel
    result = b.op(
        "conv_2d", kernel, low.scale_down(picture) if in_kernel_type else picture,
        stride0=stride[1], stride1=stride[0], pad0=padding[1], pad1=padding[0], dilation0=dilation[1],
        dilation1=dilation[0],
    )  # fmt: skip
    if in_kernel_type:
        result = low.unscale(result)
    if bias is not None:
        result = b.op("add", result, b.reshape(contiguous(b, low.operand(bias)), (bias.numel, 1, 1)))
    return low.to_layout(result, out)
