"""All rows of `bench`, and which of them a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from . import bench_families, bench_flux
from .bench_jobs import TORCH, Row
from .steps import Failure

GIGABYTES = bench_flux.GIGABYTES | bench_families.GIGABYTES  # of the model files


def rows(device: str) -> list[Row]:
    """All rows for a device, in the order in which they are measured."""
    found = [*bench_flux.rows(device), *bench_families.rows()]
    return [row for row in found if device == "CPU" or row.peer != TORCH]  # torch here is one for the CPU


def chosen(device: str, patterns: Sequence[str]) -> list[Row]:
    """The rows whose name one of the patterns (a glob, or how the name begins) fits; the usual ones without any."""
    every = rows(device)
    if not patterns:
        return [row for row in every if row.usual]
    for pattern in patterns:
        if not any(fits(row.name, pattern) for row in every):
            raise Failure(f"no benchmark is called {pattern}", "`python3 dev.py bench --list` shows them all")
    return [row for row in every if any(fits(row.name, pattern) for pattern in patterns)]


def fits(name: str, pattern: str) -> bool:
    return name.startswith(pattern) or fnmatchcase(name, pattern)
