"""Programs made by hand, weight files of raw bytes, and a runner that has lavapipe, for tests of the runner."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from native.client import Runner
from native.program import Output, Program, Tensor
from native.weights.runs import Run
from native.weights.weight_set import Parameter, WeightSet
from tools import places, vulkan

DEVICES = ("CPU", "Vulkan0")
Parameters = tuple[int | float | str, ...]
NO_WEIGHTS = WeightSet("toy", {}, ())


def new_runner(*options: str, timeout: float | None = None, **environment: str) -> Runner:
    """A runner with two threads at most and software Vulkan where there is no GPU."""
    software = vulkan.software_environment(places.here())
    kept = {name: os.environ.get(name, value) for name, value in software.items()}
    return Runner(("--threads", "2", *options), kept | environment, timeout)


class Table:
    """Writes a program row by row; every method gives the row's index."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(
        self, kind: str, name: str, type_: str, shape: tuple[int, ...], *sources: int, with_: Parameters = ()
    ) -> int:
        """A row; `shape` in torch order."""
        ne = (*reversed(shape), 1, 1, 1, 1)[:4]
        self.rows.append(Tensor(kind, name, type_, ne, sources, with_))  # type: ignore[arg-type]
        return len(self.rows) - 1

    def input(self, name: str, shape: tuple[int, ...], type_: str = "F32") -> int:
        return self.add("input", name, type_, shape)

    def weight(self, name: str, shape: tuple[int, ...], type_: str = "F32") -> int:
        return self.add("weight", name, type_, shape)

    def constant(self, name: str, array: np.ndarray, type_: str = "F32") -> int:
        self.constants[name] = array
        return self.add("constant", name, type_, array.shape)

    def op(self, name: str, shape: tuple[int, ...], *sources: int, with_: Parameters = (), type_: str = "F32") -> int:
        return self.add("op", name, type_, shape, *sources, with_=with_)

    def program(self, *outputs: int) -> Program:
        """The program with these rows as outputs, in the shapes they were declared with."""
        listed = [Output(index, tuple(reversed(self.rows[index].ne))) for index in outputs]
        return Program(tuple(self.rows), tuple(listed), self.constants)


def weight_file(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...], bytes]], offset: int = 4096) -> WeightSet:
    """Writes (stored type, shape in torch order, bytes) of each tensor one after the other, without any header."""
    from native.weights.weight_set import load_type

    parameters, content = {}, bytearray(offset)
    for name, (stored, shape, data) in tensors.items():
        content.extend(bytes(-len(content) % 32))
        type_ = load_type(stored, shape)
        parameters[name] = Parameter(name, type_, shape, (Run(str(path), stored, len(content), len(data)),))
        content += data
    path.write_bytes(content)
    status = path.stat()
    return WeightSet("toy", parameters, ((str(path), status.st_size, status.st_mtime_ns),))


def f32_file(path: Path, arrays: Mapping[str, np.ndarray]) -> WeightSet:
    """A weight file of float32 matrices."""
    return weight_file(path, {name: ("F32", a.shape, a.astype("<f4").tobytes()) for name, a in arrays.items()})


def linear(rows: int, columns: int, tokens: int, type_: str = "F32", name: str = "w") -> Program:
    """x [tokens, columns] times the weight [rows, columns]."""
    table = Table()
    weight = table.weight(name, (rows, columns), type_)
    x = table.input("x", (tokens, columns))
    return table.program(table.op("mul_mat", (tokens, rows), weight, x, with_=("F32",)))


def long_program(steps: int, size: int) -> Program:
    """`steps` matrix products [size, size] in a row, each divided by what keeps its values in range."""
    table = Table()
    x = y = table.input("x", (size, size))
    for _ in range(steps):
        y = table.op("mul_mat", (size, size), x, y, with_=("default",))
        y = table.op("scale", (size, size), y, with_=(1.0 / size, 0.0))
    return table.program(y)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 distance."""
    return float(np.linalg.norm(found.astype("f8") - expected) / np.linalg.norm(expected))
