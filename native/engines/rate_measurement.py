"""Measures how fast a device is: a small program for each kind of work, its operations computed alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np

from ..client import Device, Runner
from ..ggml_types import tensor_bytes
from ..placement import CPU, DEVICE, RAM, Placement
from ..planning.rates import REPACKED, Rates
from ..planning.work import row_work
from ..program import Output, Program
from ..program.builder import Builder
from ..weights import Parameter, WeightSet
from ..weights.runs import Run
from .shortest import shortest, shortest_call
from .torch_rates import TorchBench

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
HEADS = ((40, 8), (64, 8), (128, 4), (512, 1))  # channels, and the number of heads
OTHERS = (
    "add",
    "mul",
    "scale",
    "gelu",
    "silu",
    "norm",
    "soft_max",
    "sum_rows",
    "cont",
    "repeat",
    "transpose",
    "concat",
    "rope",
    "broadcast",
    "upscale",
)
_TINY, _CHAIN = 64, 200  # elements of an operation that takes no time, and how many of them a long program has
_NARROW = 64  # columns of a matrix of which little but the results counts
_LEAST = 0.05  # of a measured time is left where what every operation takes is subtracted
_ALIGNMENT = 4096
Points = dict[str, dict[float, float]]  # rates by kind and size


@dataclass(frozen=True)
class _Sizes:
    """Sizes of operations that take a device some milliseconds.

    side: rows and columns of a matrix; columns: of what it is multiplied with. attended: tokens. pictures: channels in
    and out, and their side. others: rows and columns of what all other operations take.
    """

    side: int
    columns: tuple[int, ...]
    attended: int
    pictures: tuple[tuple[int, int, int], ...]
    others: tuple[tuple[int, int], ...]


_SOFTWARE = _Sizes(256, (1, 16, 64), 64, ((64, 4, 16), (64, 64, 16), (64, 128, 8)), ((64, 256), (256, 512)))
_PROCESSOR = _Sizes(
    512, (1, 16, 256), 256, ((64, 4, 64), (64, 64, 64), (128, 256, 16)), ((64, 256), (512, 512), (2048, 1024))
)
_CARD = _Sizes(
    4096, (1, 16, 128, 1024), 2048, ((128, 4, 256), (64, 64, 256), (256, 256, 64), (512, 512, 64)),
    ((64, 256), (1024, 512), (4096, 2048)),
)  # fmt: skip


def measure(runner: Runner, device: Device, interrupted: Callable[[], bool] = lambda: False) -> Rates:
    """The rates of a device under ggml, in some seconds. Raises Interrupted, and what Runner.run does."""
    with tempfile.TemporaryDirectory(prefix="ggml-rates") as folder:
        bench = _Bench(runner, device, Path(folder), interrupted)
        call, launch = bench.overheads()
        points: Points = {}
        sizes = bench.sizes
        for program in (*_others(sizes), *_attentions(sizes, "F32" if device.type == CPU else "F16")):
            bench.measure(program, points)
        torch = TorchBench(interrupted) if device.type == CPU else None
        for kernel in ("F16", "F32"):
            kernels = bench.kernels(kernel)
            bench.measure(_convolutions(sizes, kernel), points, kernels)
            for number, (into, out, side) in enumerate(sizes.pictures if torch else ()):
                assert torch is not None
                torch.convolution(kernels, f"kernel{number}", (out, into, 3, 3), side)
        upload, repack = 0.0, 0.0
        for type_ in TYPES:
            program, weights = _products(type_, sizes), bench.matrices(type_)
            if torch:
                bench.measure(program, points, weights, RAM)
                torch.product(weights, sizes.side, sizes.columns)
                began = perf_counter()
                repacked = runner.load(weights, Placement(device.name, DEVICE)).repacked
                if not repacked:
                    bench.unload(weights)
                    continue
                repack = max(repack, repacked / (perf_counter() - began))
                bench.measure(program, points, weights, DEVICE, REPACKED)
            else:
                began = perf_counter()
                loaded = runner.load(weights, Placement(device.name, DEVICE)).copied
                upload = max(upload, loaded / (perf_counter() - began))
                bench.measure(program, points, weights)
        element = bench.element(points["mul_mat F16"])
    curves = {kind: tuple(sorted(found.items())) for kind, found in points.items()}
    memory = max(rate for _, rate in curves["add"])
    today = date.today().isoformat()
    other = _of_torch(torch, sizes, memory) if torch else None
    return Rates(curves, memory, launch, call, upload or memory, repack, element, date=today, torch=other)


def _of_torch(torch: TorchBench, sizes: _Sizes, upload: float) -> Rates:
    for channels, heads in HEADS:
        torch.attention(channels, heads, sizes.attended)
    for rows, columns in sizes.others:
        torch.others(rows, columns)
    return torch.rates(upload)


@dataclass
class _Bench:
    """A device, and a folder for the files of zeros that its weights are read from."""

    runner: Runner
    device: Device
    folder: Path
    interrupted: Callable[[], bool]
    floor: float = 0.0  # seconds of an operation computed alone that computes nothing

    @property
    def sizes(self) -> _Sizes:
        """Of the operations."""
        if "software" in self.device.features:
            return _SOFTWARE
        return _PROCESSOR if self.device.type == CPU else _CARD

    def overheads(self) -> tuple[float, float]:
        """Seconds of a run, and of an operation in it, that compute nothing; notes the floor of those alone."""
        short, long = (_chain(length) for length in (1, _CHAIN))
        self.floor = min(self._profiled(long, None, DEVICE).values())
        call, whole = self._run(short), self._run(long)
        self.unload(_NOTHING)
        return call, max(0.0, whole - call) / _CHAIN

    def measure(
        self, program: Program, points: Points, weights: WeightSet | None = None, residency: str = DEVICE,
        suffix: str = "",
    ) -> None:  # fmt: skip
        """Add the rates of a program's operations; suffix: of the kinds of products."""
        for row, seconds in self._profiled(program, weights, residency).items():
            work = row_work(program.tensors, row)
            rate = (work.flops or work.nbytes) / max(seconds - self.floor, _LEAST * seconds)
            found = points.setdefault(work.kind + suffix, {})
            found[work.size] = max(rate, found.get(work.size, 0.0))
        self.unload(weights or _NOTHING, residency)

    def element(self, known: dict[float, float]) -> float:
        """Seconds of an element of a product on top of its arithmetic; known: the rates of F16."""
        size, columns = self.sizes, self.sizes.columns[-1]
        points: Points = {}
        weights = self._file("narrow", {"matrix": ("F16", (size.side, _NARROW))})
        self.measure(_product("F16", size.side, _NARROW, (columns,)), points, weights, RAM)
        ((_, rate),) = points["mul_mat F16"].items()
        return max(0.0, 2.0 * _NARROW * (1 / rate - 1 / known[float(columns)]))

    def unload(self, weights: WeightSet, residency: str = DEVICE) -> None:
        """Leave nothing of it in the runner."""
        self.runner.unload(weights.digest, Placement(self.device.name, residency))

    def matrices(self, type_: str) -> WeightSet:
        """One matrix of a type."""
        return self._file(type_, {"matrix": (type_, (self.sizes.side, self.sizes.side))})

    def kernels(self, type_: str) -> WeightSet:
        """The kernels of the convolutions."""
        shapes = {f"kernel{number}": (out, into, 3, 3) for number, (into, out, _) in enumerate(self.sizes.pictures)}
        return self._file(f"kernels {type_}", {name: (type_, shape) for name, shape in shapes.items()})

    def _file(self, name: str, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> WeightSet:
        """Weights of these types and shapes, in a file that is nothing but a hole."""
        path, parameters, end = self.folder / name, {}, 0
        for each, (type_, shape) in tensors.items():
            nbytes = tensor_bytes(type_, shape)
            parameters[each] = Parameter(each, type_, shape, (Run(str(path), type_, end, nbytes),))
            end += -(-nbytes // _ALIGNMENT) * _ALIGNMENT
        with path.open("wb") as file:
            file.truncate(end)
        status = path.stat()
        return WeightSet(name, parameters, ((str(path), status.st_size, status.st_mtime_ns),))

    def _profiled(self, program: Program, weights: WeightSet | None, residency: str) -> dict[int, float]:
        """The shortest seconds of each operation; the first round reads the weights and compiles shaders."""
        held, placement = weights or _NOTHING, Placement(self.device.name, residency)
        inputs = _inputs(program)
        self.runner.profile(held, placement, program, inputs)
        return shortest(lambda: self.runner.profile(held, placement, program, inputs), self.interrupted)

    def _run(self, program: Program) -> float:
        placement, inputs = Placement(self.device.name, DEVICE), _inputs(program)
        return shortest_call(
            lambda: self.runner.run(_NOTHING, placement, program, inputs, checked=False), self.interrupted
        )


_NOTHING = WeightSet("nothing", {}, ())


def _inputs(program: Program) -> dict[str, np.ndarray]:
    return {
        row.name: np.full(tuple(reversed(row.ne)), 0.1, np.float32) for row in program.tensors if row.kind == "input"
    }


def _program(b: Builder, made: Sequence[int]) -> Program:
    return b.program([Output(index, tuple(reversed(b[index].ne))) for index in made])[0]


def _chain(length: int) -> Program:
    b = Builder()
    x = b.leaf("input", "x", "F32", (_TINY,))
    for _ in range(length):
        x = b.op("scale", x, factor=0.5, bias=float(length))
    return _program(b, [x])


def _products(type_: str, sizes: _Sizes) -> Program:
    return _product(type_, sizes.side, sizes.side, sizes.columns)


def _product(type_: str, rows: int, columns: int, tokens: tuple[int, ...]) -> Program:
    """A matrix times so many tokens, each in an operation of its own."""
    b = Builder()
    matrix = b.leaf("weight", "matrix", type_, (rows, columns))
    inputs = [b.leaf("input", f"x{each}", "F32", (each, columns)) for each in tokens]
    return _program(b, [b.op("mul_mat", matrix, each) for each in inputs])


def _attentions(sizes: _Sizes, kv_type: str) -> Iterator[Program]:
    for channels, heads in HEADS:
        b = Builder()
        query, key, value = (b.leaf("input", name, "F32", (heads, sizes.attended, channels)) for name in "qkv")
        if kv_type != "F32":
            key, value = (b.op("cast", each, type=kv_type) for each in (key, value))
        yield _program(b, [b.op("flash_attn", query, key, value, scale=channels**-0.5)])


def _convolutions(sizes: _Sizes, kernel: str) -> Program:
    b, made = Builder(), []
    options = {"stride0": 1, "stride1": 1, "pad0": 1, "pad1": 1, "dilation0": 1, "dilation1": 1}
    for number, (channels, kernels, side) in enumerate(sizes.pictures):
        weight = b.leaf("weight", f"kernel{number}", kernel, (kernels, channels, 3, 3))
        picture = b.leaf("input", f"x{number}", "F32", (1, channels, side, side))
        made.append(b.op("conv_2d", weight, picture, **options))
    return _program(b, made)


def _others(sizes: _Sizes) -> Iterator[Program]:
    """Each operation in several sizes; the smallest twice, as the first operation of a program takes longer."""
    for name in OTHERS:
        b = Builder()
        leaves = [b.leaf("input", f"x{n}", "F32", shape) for n, shape in enumerate((sizes.others[0], *sizes.others))]
        yield _program(b, [_other(b, name, each) for each in leaves])


def _other(b: Builder, name: str, x: int) -> int:
    columns, rows = b[x].ne[:2]
    if name in ("add", "mul"):
        return b.op(name, x, x)
    if name == "repeat":
        return b.shaped(name, b.reshape(x, (1, rows, columns)), (2, rows, columns))
    if name == "transpose":
        return b.op("cont", b.permute(x, (1, 0, 2, 3)))
    if name == "broadcast":
        return b.op("add", x, b.leaf("input", f"{b[x].name} ones", "F32", (rows, 1)))
    if name == "upscale":
        return b.shaped(name, b.reshape(x, (1, 1, rows, columns)), (1, 1, 2 * rows, 2 * columns), mode="nearest")
    if name == "concat":
        return b.op(name, x, x, dim=0)
    if name == "rope":
        heads = b.reshape(x, (rows, 1, columns))
        positions = b.constant(np.arange(rows, dtype=np.int32))
        return b.op(name, heads, positions, b.constant(np.ones(columns // 2, np.float32)))
    options = {"norm": {"eps": 1e-6}, "scale": {"factor": 0.5}}.get(name, {})
    return b.op(name, x, **options)
