"""ggml's quantized blocks to float32, on all of torch's threads.

Layouts: ggml-common.h; the order of operations is that of the gguf package, so the values are the same bit for bit.
Every function here takes blocks [n, bytes of one] in uint8 and returns [n, elements of one], in some shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _half(bytes_: Tensor) -> Tensor:
    """F16 values, two bytes each, in float32."""
    return bytes_.view(torch.float16).float()


def _lanes(bytes_: Tensor, width: int) -> Tensor:
    """Bytes [n, many] as whole numbers of `width` bytes: what shifts and masks work on, several bytes at once."""
    return bytes_.clone(memory_format=torch.contiguous_format).view(torch.int64 if width == 8 else torch.int32)


def _bits(bytes_: Tensor, group: int, *shifts: int, mask: int) -> Tensor:
    """The bits under `mask` of every byte after each of the shifts, by groups of bytes: [n, groups, shifts, group]."""
    width = min(group, 8)
    lanes = _lanes(bytes_, width).unflatten(-1, (-1, group // width))
    every = int.from_bytes(bytes([mask]) * width, "little")
    return torch.stack([lanes >> shift & every for shift in shifts], dim=2).view(torch.uint8)


def _nibbles(bytes_: Tensor, group: int) -> Tensor:
    """The low halves of `group` bytes, then their high halves, and so on: [n, elements]."""
    return _bits(bytes_, group, 0, 4, mask=15).flatten(1)


# The bits of a byte, lowest first, each as the fifth bit of a byte of its own.
_FIFTHS = torch.tensor([sum((byte >> bit & 1) << 8 * bit + 4 for bit in range(8)) for byte in range(256)])


def _fifths(bytes_: Tensor) -> Tensor:
    """The fifth bits of 4-bit values, in their place: 0 or 16.  # [n, 8 elements for each byte]"""
    return _FIFTHS.index_select(0, bytes_.flatten().int()).view(len(bytes_), -1).view(torch.uint8)


def _q4_0(raw: Tensor) -> Tensor:
    q = _nibbles(raw[:, 2:], 16).float()
    return q.sub_(8).mul_(_half(raw[:, :2]))


def _q4_1(raw: Tensor) -> Tensor:
    q = _nibbles(raw[:, 4:], 16).float()
    return q.mul_(_half(raw[:, :2])).add_(_half(raw[:, 2:4]))


def _q5_0(raw: Tensor) -> Tensor:
    q = _nibbles(raw[:, 6:], 16).bitwise_or_(_fifths(raw[:, 2:6]))
    return q.float().sub_(16).mul_(_half(raw[:, :2]))


def _q5_1(raw: Tensor) -> Tensor:
    q = _nibbles(raw[:, 8:], 16).bitwise_or_(_fifths(raw[:, 4:8]))
    return q.float().mul_(_half(raw[:, :2])).add_(_half(raw[:, 2:4]))


def _q8_0(raw: Tensor) -> Tensor:
    return raw[:, 2:].view(torch.int8).float().mul_(_half(raw[:, :2]))


def _q2_k(raw: Tensor) -> Tensor:
    scales, mins = raw[:, :16] & 15, raw[:, :16] >> 4
    q = _bits(raw[:, 16:80], 32, 0, 2, 4, 6, mask=3).view(-1, 16, 16).float()
    return q.mul_((_half(raw[:, 80:82]) * scales)[..., None]).sub_((_half(raw[:, 82:84]) * mins)[..., None])


def _q3_k(raw: Tensor) -> Tensor:
    low = _nibbles(raw[:, 96:104], 8)
    high = _bits(raw[:, 104:108], 4, 0, 2, 4, 6, mask=3).flatten(1)
    scales = (low | high << 4).view(torch.int8) - 32  # [n, 16]
    q = _bits(raw[:, 32:96], 32, 0, 2, 4, 6, mask=3).flatten(1).view(torch.int8)
    lacking = _bits(raw[:, :32], 32, *range(8), mask=1).flatten(1).bitwise_xor_(1) << 2
    values = (q - lacking.view(torch.int8)).view(-1, 16, 16).float()
    return values.mul_((_half(raw[:, 108:110]) * scales)[..., None])


def _scales_and_mins(raw: Tensor) -> tuple[Tensor, Tensor]:
    """The 6-bit numbers of Q4_K and Q5_K (get_scale_min_k4 in ggml-quants.c), times their F16 scales: [n, 8, 1]."""
    first, second, rest = _lanes(raw[:, 4:16], 4).unbind(1)  # four numbers each
    low, high = 0x3F3F3F3F, 0x30303030  # their six bits; the upper two of them
    scales = torch.stack([first & low, rest & 0x0F0F0F0F | first >> 2 & high], dim=1).view(torch.uint8)
    mins = torch.stack([second & low, rest >> 4 & 0x0F0F0F0F | second >> 2 & high], dim=1).view(torch.uint8)
    return (_half(raw[:, :2]) * scales)[..., None], (_half(raw[:, 2:4]) * mins)[..., None]


def _q4_k(raw: Tensor) -> Tensor:
    scales, mins = _scales_and_mins(raw)
    q = _nibbles(raw[:, 16:], 32).view(-1, 8, 32).float()
    return q.mul_(scales).sub_(mins)


def _q5_k(raw: Tensor) -> Tensor:
    scales, mins = _scales_and_mins(raw)
    fifths = _bits(raw[:, 16:48], 32, *range(8), mask=1) << 4
    q = _nibbles(raw[:, 48:], 32).bitwise_or_(fifths.flatten(1))
    return q.view(-1, 8, 32).float().mul_(scales).sub_(mins)


def _q6_k(raw: Tensor) -> Tensor:
    low = _nibbles(raw[:, :128], 64)
    high = _bits(raw[:, 128:192], 32, 0, 2, 4, 6, mask=3).flatten(1) << 4
    q = (low | high).view(-1, 16, 16).float().sub_(32)
    return q.mul_((_half(raw[:, 208:210]) * raw[:, 192:208].view(torch.int8))[..., None])


BLOCKS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
