"""The file of the rates that were measured on this machine: JSON, an entry for each device, driver and build of ggml.

{"format": 1, "devices": [{"device", "driver", "ggml", "threads", "measured": date, "rates": {...}}, ...]}, where rates
are {"memory", "launch", "call", "upload", "repack", "element", "curves": {kind: [[size, rate], ...]}, "torch": the same
again or null}, in the units of native/planning/rates.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..device_entries import read_entries, write_entries
from .rates import Rates

_NUMBERS = ("memory", "launch", "call", "upload", "repack", "element")


@dataclass(frozen=True)
class RatesKey:
    """A device as its rates are kept: with another driver, build or number of threads they are measured anew."""

    device: str  # the driver's name for it
    driver: str
    ggml: str  # version
    threads: int  # of the CPU; 0 elsewhere


def read_rates(path: Path) -> dict[RatesKey, Rates]:
    """The rates in a file; what cannot be read is left out, as it can be measured again."""
    return dict(filter(None, map(_entry, read_entries(path))))


def write_rates(path: Path, key: RatesKey, rates: Rates) -> None:
    """Add the rates of a device, in the place of those it had. Raises OSError."""
    held = read_rates(path)
    held.pop(key, None)
    held[key] = rates
    entries = [{**vars(each), "measured": found.date, "rates": _json(found)} for each, found in held.items()]
    write_entries(path, entries)


def _entry(described: Any) -> tuple[RatesKey, Rates] | None:
    with suppress(ValueError, TypeError, KeyError, AttributeError):
        device, driver, ggml = (str(described[name]) for name in ("device", "driver", "ggml"))
        key = RatesKey(device, driver, ggml, int(described["threads"]))
        return key, replace(_rates(described["rates"]), date=str(described.get("measured", "")))
    return None


def _rates(described: Mapping[str, Any]) -> Rates:
    curves = {
        str(kind): tuple(sorted((_positive(size), _positive(rate)) for size, rate in curve))
        for kind, curve in described["curves"].items()
        if curve
    }
    torch = described.get("torch")
    return Rates(
        curves,
        _positive(described["memory"]),
        _number(described["launch"]),
        _number(described["call"]),
        _positive(described["upload"]),
        _number(described["repack"]),
        _number(described["element"]),
        torch=None if torch is None else _rates(torch),
    )


def _json(rates: Rates) -> dict[str, Any]:
    numbers = {name: getattr(rates, name) for name in _NUMBERS}
    curves = {kind: [list(each) for each in curve] for kind, curve in rates.curves.items()}
    return {**numbers, "curves": curves, "torch": None if rates.torch is None else _json(rates.torch)}


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{value!r} is no rate")
    return number


def _positive(value: Any) -> float:
    number = _number(value)
    if not number:
        raise ValueError("a rate of 0")
    return number
