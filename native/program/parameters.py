"""The parameters of each operation, in the order in which a program holds them; axes are in ggml's numbering."""

from __future__ import annotations

from typing import NamedTuple

from .tensor import Ne


class Nothing(NamedTuple):
    """An operation without parameters."""


class View(NamedTuple):
    """Dimensions in elements; strides and offset in bytes."""

    ne0: int
    ne1: int
    ne2: int
    ne3: int
    nb1: int
    nb2: int
    nb3: int
    offset: int

    @property
    def ne(self) -> Ne:
        """The dimensions."""
        return self.ne0, self.ne1, self.ne2, self.ne3

    @property
    def nb(self) -> tuple[int, int, int]:
        """The strides of all dimensions but the fastest, in bytes."""
        return self.nb1, self.nb2, self.nb3


class Permute(NamedTuple):
    """Axis i of the source becomes axis `axis{i}` of the result."""

    axis0: int
    axis1: int
    axis2: int
    axis3: int


class Cast(NamedTuple):
    """The ggml type of the result."""

    type: str


class Concat(NamedTuple):
    """The dimension along which the second source follows the first."""

    dim: int


class Pad(NamedTuple):
    """Zeros before (l) and after (r) each dimension, in elements."""

    l0: int
    r0: int
    l1: int
    r1: int
    l2: int
    r2: int
    l3: int
    r3: int


class Set(NamedTuple):
    """Where in the first source the second is written: strides and offset in bytes."""

    nb1: int
    nb2: int
    nb3: int
    offset: int


class Scale(NamedTuple):
    """x * factor + bias."""

    factor: float
    bias: float = 0.0


class Clamp(NamedTuple):
    """Smallest and largest value."""

    min: float
    max: float


class LeakyRelu(NamedTuple):
    """The factor of negative values."""

    slope: float


class Rope(NamedTuple):
    """halves: pairs are a channel of the first half and one of the second, else two that follow one another."""

    halves: bool = False


class Argsort(NamedTuple):
    """The places of the largest elements come first, or those of the smallest."""

    descending: bool


class MulMat(NamedTuple):
    """prec "F32": sums are in F32 on every device."""

    prec: str = "F32"


class Norm(NamedTuple):
    """Added to the variance, or to the mean square."""

    eps: float


class GroupNorm(NamedTuple):
    """Groups of channels, which are dimension 2; eps as in Norm."""

    groups: int
    eps: float


class Softmax(NamedTuple):
    """Scores are multiplied by it before the mask is added."""

    scale: float = 1.0


class Conv2d(NamedTuple):
    """0: along the width, 1: along the height; in pixels."""

    stride0: int
    stride1: int
    pad0: int
    pad1: int
    dilation0: int
    dilation1: int


POOLED = 512 * 65535  # elements of a pool, less than which Vulkan starts at once in groups of 512


class Pool2d(NamedTuple):
    """0: along the width, 1: along the height; in pixels."""

    side0: int
    side1: int
    stride0: int
    stride1: int
    pad0: int
    pad1: int


class Conv3d(NamedTuple):
    """0: along the width, 1: along the height, 2: along the depth; in voxels. batch: volumes."""

    stride0: int
    stride1: int
    stride2: int
    pad0: int
    pad1: int
    pad2: int
    dilation0: int
    dilation1: int
    dilation2: int
    batch: int


class Upscale(NamedTuple):
    """ "nearest" or "bilinear"."""

    mode: str
