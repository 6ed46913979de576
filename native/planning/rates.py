"""How fast a device is, measured or published, and the seconds that work takes there."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import exp, log

from ..program import Program
from .work import Work, work_of

MEASURED, PUBLISHED = "measured", "published"
REPACKED = " repacked"  # behind the kind of a product whose weights lie in the layout of the fastest kernels
Curve = tuple[tuple[float, float], ...]  # size and rate, by size

# What stands for an operation that was not measured itself.
_LIKE = {
    "gelu_erf": "gelu", "gelu_quick": "gelu", "tanh": "gelu", "sigmoid": "silu", "exp": "silu", "sin": "gelu",
    "cos": "gelu", "log": "silu", "elu": "silu", "softplus": "silu", "expm1": "silu", "rms_norm": "norm",
    "group_norm": "norm", "mean": "sum_rows", "cumsum": "sum_rows", "cast": "cont", "set": "cont",
    "sub": "add", "div": "mul", "argsort": "soft_max", "pad": "cont", "get_rows": "cont",
}  # fmt: skip
_ELSE = ("add", "copy")
# Of the peaks in a card's data sheet: published for an RX 470 are 53 to 66 % in quantized products and 49 to 60 % in
# convolutions (llama.cpp #10879, ggml's test-backend-ops); attention and memory as of usual kernels.
_SHARES = {"mul_mat": 0.55, "conv_2d": 0.5, "conv_3d": 0.4, "conv_2d_dw": 0.1, "flash_attn": 0.3}
_MEMORY_SHARE = 0.7
_LAUNCH = 8e-6  # seconds between two operations of a submitted graph
_UPLOAD = 10e9  # bytes a second over PCI Express 3.0 x16


@dataclass(frozen=True)
class Rates:
    """The speed of a device under one engine.

    curves: FLOP/s of products, bytes/s of other operations, at the sizes of native/planning/work.py, by kind.
    memory: bytes/s that no product can pass. launch, call: seconds of an operation and of a run, whatever it does.
    element: seconds of an element of a product of matrices, on top of its arithmetic; it counts where rows are short.
    upload, repack: bytes/s of weights on their way to the device, and to the layout of the fastest kernels; 0: unknown.
    """

    curves: Mapping[str, Curve]
    memory: float
    launch: float
    call: float
    upload: float
    repack: float = 0.0
    element: float = 0.0
    source: str = MEASURED
    date: str = ""  # of the measurement
    torch: Rates | None = field(default=None, repr=False)  # of the other engine, on the CPU

    def seconds(self, program: Program, repacked: bool = False) -> float:
        """Seconds of a run of a program, with its weights where they are computed with."""
        return self.call + sum(count * self.work_seconds(work, repacked) for work, count in work_of(program))

    def rate(self, kind: str, size: float, repacked: bool = False) -> float:
        """FLOP/s or bytes/s of a kind of work; 0 where nothing like it is known."""
        curve = (repacked and self.curves.get(kind + REPACKED)) or self._curve(kind)
        return _at(curve, size) if curve else 0.0

    def work_seconds(self, work: Work, repacked: bool = False) -> float:
        """Seconds of one operation."""
        rate, amount = self.rate(work.kind, work.size, repacked), work.flops or work.nbytes
        if not work.flops:
            return self.launch + amount / (rate or self.memory)
        floor = work.nbytes / self.memory
        return self.launch + max(amount / rate + self.element * work.elements if rate else 0.0, floor)

    def _curve(self, kind: str) -> Curve | None:
        name, _, type_ = kind.partition(" ")
        if type_:
            found = self.curves.get(kind) or self._any_type.get(name)
            return found or (self._any_type.get("conv_2d") if name.startswith("conv") else None)
        return next((self.curves[each] for each in (kind, _LIKE.get(kind, ""), *_ELSE) if each in self.curves), None)

    @cached_property
    def _any_type(self) -> dict[str, Curve]:
        """Of each product the slowest type, for types that were not measured."""
        found: dict[str, Curve] = {}
        for kind, curve in self.curves.items():
            name, _, type_ = kind.partition(" ")
            if type_ and not kind.endswith(REPACKED) and (name not in found or curve[-1][1] < found[name][-1][1]):
                found[name] = curve
        return found


def published_rates(flops: float, memory: float) -> Rates:
    """The rates of a card of which nothing is known but its data sheet: FLOP/s and bytes/s at its best."""
    products = {f"{name} any": ((1.0, share * flops),) for name, share in _SHARES.items()}
    copies = {"copy": ((1.0, _MEMORY_SHARE * memory),)}
    bandwidth = _MEMORY_SHARE * memory
    return Rates({**products, **copies}, bandwidth, _LAUNCH, 0.0, min(_UPLOAD, bandwidth), source=PUBLISHED)


def _at(curve: Curve, size: float) -> float:
    """The rate at a size, between the two that are known on logarithmic scales; beyond them that of the last."""
    place = bisect_left(curve, (size,))
    if place == 0:
        return curve[0][1]
    if place == len(curve):
        return curve[-1][1]
    (left, low), (right, high) = curve[place - 1], curve[place]
    share = (log(size) - log(left)) / (log(right) - log(left))
    return exp(log(low) + share * (log(high) - log(low)))
