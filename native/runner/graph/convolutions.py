"""Makes the ggml calls of convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from ...program import parameters
from ..ggml_binding import ggml
from .call import Call, contiguous, require, types, within

_GGML_OP_POOL_MAX = 0
_PATCH_BYTES = 16 << 20  # ggml's CPU backend gathers what a kernel covers in so many (GGML_IM2COL_WORK_SIZE)


def conv_2d(call: Call) -> Any:
    """Two dimensions; kernels, images."""
    kernel, image = call.declared
    conv: parameters.Conv2d = call.parameters
    types(call, 0, "F32", "F16")
    _slides(call, conv[0:2], conv[2:4], conv[4:6])
    require(kernel.ne[2] == image.ne[2], f"a kernel for {kernel.ne[2]} channels on {image.ne[2]}")
    _patch_fits(prod(kernel.ne[:3]), kernel.ne[3])
    return ggml.ggml_conv_2d_direct(call.context, *call.sources, *conv)


def _slides(call: Call, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]) -> None:
    """Check that a kernel, source 0, fits into a picture or volume, source 1; along the fastest dimensions."""
    kernel, image = call.declared
    within((*strides, *dilations), least=1, limit=1 << 31)
    within(pads, limit=1 << 31)
    types(call, 1, "F32")
    contiguous(call, 0, 1)
    for side, size, pad, dilation in zip(kernel.ne, image.ne, pads, dilations, strict=False):
        require(size + 2 * pad >= dilation * (side - 1) + 1, f"a kernel {kernel.ne} on an image {image.ne}")


def _patch_fits(elements: int, kernels: int) -> None:
    held = 4 * (elements + kernels)
    require(held <= _PATCH_BYTES, f"a kernel of {elements} elements for {kernels} channels takes {held} bytes at once")


def conv_2d_dw(call: Call) -> Any:
    """Each channel by a kernel of its own."""
    kernel, image = call.declared
    conv: parameters.Conv2d = call.parameters
    types(call, 0, "F32")  # ggml's CPU backend reads any kernel as F32
    _slides(call, conv[0:2], conv[2:4], conv[4:6])
    require(kernel.ne[2:] == (1, image.ne[2]), f"kernels {kernel.ne} for {image.ne[2]} channels")
    return ggml.ggml_conv_2d_dw_direct(call.context, *call.sources, *conv)


def conv_3d(call: Call) -> Any:
    """Three dimensions; kernels, volumes."""
    kernel, volume = call.declared
    conv: parameters.Conv3d = call.parameters
    types(call, 0, "F32", "F16")
    within((conv.batch,), least=1, limit=1 << 31)
    _slides(call, conv[0:3], conv[3:6], conv[6:9])
    channels = volume.ne[3] // conv.batch
    fits = channels * conv.batch == volume.ne[3] and kernel.ne[3] % channels == 0
    require(fits, f"kernels {kernel.ne} for {conv.batch} volumes {volume.ne}")
    require(prod(volume.ne) < 1 << 32, f"a volume {volume.ne} of 2^32 elements and more")
    kernels = kernel.ne[3] // channels
    _patch_fits(prod(kernel.ne[:3]) * channels, kernels)
    return ggml.ggml_conv_3d_direct(call.context, *call.sources, *conv[:9], channels, conv.batch, kernels)


def max_pool_2d(call: Call) -> Any:
    """The largest element of each window."""
    pool: parameters.Pool2d = call.parameters
    within((pool.side0, pool.side1, pool.stride0, pool.stride1), least=1, limit=1 << 31)
    types(call, 0, "F32")
    contiguous(call, 0)
    pads = (pool.pad0, pool.pad1)
    for size, side, pad in zip(call.declared[0].ne, pool[:2], pads, strict=False):
        require(0 <= pad < side <= size + 2 * pad, f"rectangles {pool[:2]} of {call.declared[0].ne}, padded by {pads}")
    require(prod(call.tensor.ne) < parameters.POOLED, f"a pool of {prod(call.tensor.ne)} elements")
    return ggml.ggml_pool_2d(call.context, call.sources[0], _GGML_OP_POOL_MAX, *pool)
