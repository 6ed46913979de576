"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from ...trace.graph import Window
from ..lowering import LowerError, Lowering, handler
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
    picture = b.reshape(contiguous(b, low.operand(x)), tuple(reversed(x.shape)))
    kernel = low.stored(weight).tensor
    ne = tuple(reversed(out.shape))
    parameters = (*reversed(stride), *reversed(padding), *reversed(dilation))
    if b[kernel].type == "F32":
        result = b.op("conv_2d", kernel, picture, ne=ne, parameters=parameters)
    else:  # ggml brings the picture to the kernel's type
        result = low.unscale(b.op("conv_2d", kernel, low.scale_down(picture), ne=ne, parameters=parameters))
    if bias is not None:
        added = b.reshape(contiguous(b, low.operand(bias)), (1, 1, bias.numel))
        result = b.op("add", result, added, ne=ne)
    return low.to_layout(result, out)
