"""Handlers that read pictures at places between pixels which the device computes: grid_sample, deformable convolution.

A picture is a table with a row of channels for each pixel; a place reads four rows, weighted by how near they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from ...program.builder import LowerError
from ...trace.graph import Window
from ..lowering import Lowering, Made, handler
from ..strides import Operand, contiguous, contiguous_stride

_EXACT = 1 << 24  # whole numbers up to it are exact in F32


class _Corner(NamedTuple):
    """One of the four pixels around places: tensors [batch, .., places] of its weights and of its rows in the table."""

    weights: int
    rows: int


@handler("grid_sampler_2d")
def grid_sample(
    low: Lowering, out: Window, x: Window, grid: Window, interpolation: int, padding: int, align_corners: bool
) -> Operand:
    """x [batch, channels, height, width] at places [batch, rows, columns, 2] from -1 to 1, across before down."""
    if interpolation != 0 or padding not in (0, 1):
        raise LowerError(f"grid_sample with interpolation {interpolation} and padding {padding}")
    b = low.b
    batch, rows, columns, _ = grid.shape
    places = low.operand(grid)
    coordinates = []
    for which, size in ((1, x.shape[2]), (0, x.shape[3])):
        one = Operand(places.tensor, grid.shape[:3], places.stride[:3], places.offset + which * places.stride[3])
        spread = (size - 1) / 2 if align_corners else size / 2
        pixels = b.op("scale", contiguous(b, one), factor=spread, bias=(size - 1) / 2)
        if padding == 1:
            pixels = b.op("clamp", pixels, min=0.0, max=float(size - 1))
        coordinates.append(b.reshape(pixels, (batch, rows * columns)))
    corners = _corners(low, coordinates, x.shape[2:])
    sampled = _sampled(low, _table(low, x), corners)
    shape = (batch, rows, columns, x.shape[1])
    return Operand(sampled, shape, contiguous_stride(shape)).permuted((0, 3, 1, 2))


@handler("torchvision.deform_conv2d.default")
def deformable_convolution(
    low: Lowering, out: Window, x: Window, weight: Window, offset: Window, mask: Window, bias: Window,
    stride_down: int, stride_across: int, pad_down: int, pad_across: int, dilation_down: int, dilation_across: int,
    groups: int, offset_groups: int, use_mask: bool,
) -> Made:  # fmt: skip
    """A convolution whose kernel reads each pixel at an offset, times a mask (Zhu et al. 2019, equation 1).

    offset: [batch, 2 * kernel pixels, height, width], down before across; mask: [batch, kernel pixels, height, width].
    """
    if groups != 1 or offset_groups != 1:
        raise LowerError(f"a deformable convolution of {groups} groups with offsets of {offset_groups}")
    b = low.b
    batch, (kernels, channels, down, across) = out.shape[0], weight.shape
    area, count = down * across, out.shape[2] * out.shape[3]
    kernel_row, kernel_column, row, column = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float32) for n in (down, across, *out.shape[2:])), indexing="ij"
    )
    starts = (
        row * stride_down - pad_down + kernel_row * dilation_down,
        column * stride_across - pad_across + kernel_column * dilation_across,
    )
    moved = b.reshape(contiguous(b, low.operand(offset)), (batch, area, 2, count))
    coordinates = []
    for which, start in enumerate(starts):
        part = b.window(moved, [(batch, 2 * area * count), (area, 2 * count), (count, 1)], which * count)
        coordinates.append(b.op("add", part, b.constant(start.reshape(area, count).numpy())))
    corners = _corners(low, coordinates, x.shape[2:])
    if use_mask:
        masks = b.reshape(contiguous(b, low.operand(mask)), (batch, area, count))
        corners = [_Corner(b.op("mul", corner.weights, masks), corner.rows) for corner in corners]
    table = _table(low, x)
    weights = contiguous(b, low.operand(weight).permuted((2, 3, 0, 1)))
    total: int | None = None
    for pixel in range(area):
        spots = [(batch, area * count), (count, 1)]
        here = [_Corner(*(b.op("cont", b.window(each, spots, pixel * count)) for each in corner)) for corner in corners]
        kernel = b.window(weights, [(kernels, channels), (channels, 1)], pixel * kernels * channels)
        sampled = low.scale_down(_sampled(low, table, here))
        product = b.op("mul_mat", kernel, b.reshape(sampled, (batch * count, channels)))
        total = product if total is None else b.op("add", total, product)
    assert total is not None
    result = b.op("add", low.unscale(total), b.reshape(contiguous(b, low.operand(bias)), (bias.numel,)))
    shape = (batch, *out.shape[2:], kernels)
    return Operand(result, shape, contiguous_stride(shape)).permuted((0, 3, 1, 2))


def _table(low: Lowering, x: Window) -> int:
    """The pixels of pictures as rows of channels, [batch, height * width, channels]."""
    batch, channels, height, width = x.shape
    pixels = contiguous(low.b, low.operand(x).permuted((0, 2, 3, 1)))
    return low.b.reshape(pixels, (batch, height * width, channels))


def _corners(low: Lowering, coordinates: Sequence[int], sizes: Sequence[int]) -> list[_Corner]:
    """The four pixels around places (down, across); the weight of one beside the picture is 0."""
    b = low.b
    if sizes[0] * sizes[1] > _EXACT:
        raise LowerError(f"places in a picture of {list(sizes)}")
    ends: list[list[tuple[int, int]]] = []  # of each direction: weight and number of the pixel before, and the next
    for place, size in zip(coordinates, sizes, strict=True):
        before = b.op("floor", place)
        past = b.op("sub", place, before)
        ends.append([])
        for near, pixel in (
            (b.op("scale", past, factor=-1.0, bias=1.0), before), (past, b.op("scale", before, factor=1.0, bias=1.0)),
        ):  # fmt: skip
            number = b.op("clamp", pixel, min=0.0, max=float(size - 1))
            # 1 where the number was inside and so is itself, else 0
            apart = b.op("abs", b.op("sub", number, pixel))
            inside = b.op("scale", b.op("sgn", apart), factor=-1.0, bias=1.0)
            ends[-1].append((b.op("mul", near, inside), number))
    corners = []
    for weight_down, row in ends[0]:
        for weight_across, column in ends[1]:
            number = b.op("add", b.op("scale", row, factor=float(sizes[1])), column)
            corners.append(_Corner(b.op("mul", weight_down, weight_across), b.op("cast", number, type="I32")))
    return corners


def _sampled(low: Lowering, table: int, corners: Sequence[_Corner]) -> int:
    """Channels at places, [batch, places, channels]."""
    b = low.b
    total: int | None = None
    for corner in corners:
        count, batch = b[corner.rows].ne[:2]
        pixels = b.op("mul", b.op("get_rows", table, corner.rows), b.reshape(corner.weights, (batch, count, 1)))
        total = pixels if total is None else b.op("add", total, pixels)
    assert total is not None
    return total
