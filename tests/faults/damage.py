"""Damages the headers of safetensors and GGUF files in every way, by a source of chance."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

LENGTH = 8  # bytes before the header of a safetensors file
NUMBERS = (0, 1, 2, 3, 7, 63, 64, 65, 4096, 1 << 31, 1 << 40, 1 << 62, (1 << 63) - 1)
BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "F8_E4M3": 1}
TYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "I32", "I16", "I8", "U8", "BOOL", "U16", "F4", "")
ODD = (None, -1, 1.5, "1", [], {}, True, "\ud800", "x" * 5000, [[]], 10**400)
VALUES = ("", "{", "[1]", "null", '{"transformer": 3}', '{"transformer": {"num_layers": 1e9}}', "{" * 3000, "[" * 3000)


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file; size: bytes of data behind it, which a test leaves out."""

    entries: Mapping[str, Any]
    size: int


def header_of(shapes: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> Header:
    """A whole one, from type and shape by name; each element takes the bytes that its type says."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in shapes.items():
        start = end
        count = 1
        for length in shape:
            count *= length
        end += count * BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    return Header(entries, end)


def write(path: Path, text: bytes, size: int) -> None:
    """A file with a hole for its data."""
    with path.open("wb") as file:
        file.write(len(text).to_bytes(LENGTH, "little") + text)
        file.truncate(LENGTH + len(text) + size)


def whole(header: Header) -> bytes:
    """The header as the file has it."""
    return json.dumps(header.entries).encode()


def damage(path: Path, header: Header, chance: Random) -> str:
    """Writes a damaged file; returns in which way."""
    way = chance.choice(tuple(_WAYS))
    entries = deepcopy(dict(header.entries))
    text, size = _WAYS[way](entries, header.size, chance)
    write(path, text, size)
    if way == "truncated":
        with path.open("r+b") as file:
            file.truncate(chance.choice((chance.randrange(path.stat().st_size), chance.randrange(len(text)))))
    return way


def damage_gguf(path: Path, header: bytes, size: int, chance: Random) -> str:
    """Writes a damaged GGUF file of this header, and `size` bytes behind it; returns in which way."""
    text = damage_bytes(header, chance)
    path.write_bytes(text)
    end = chance.choice((chance.randrange(len(text)), chance.randrange(len(text) + size)))
    cut = chance.random() < 0.2
    os.truncate(path, end if cut else len(text) + size)
    return "bytes of GGUF, and truncated" if cut else "bytes of GGUF"


def damage_bytes(content: bytes, chance: Random) -> bytes:
    """A header of either format with bytes changed, put in, taken out or cut off."""
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(max(1, len(damaged)))
        match chance.randrange(5):
            case 0:
                damaged[at] ^= 1 << chance.randrange(8)
            case 1:
                damaged[at : at + 8] = chance.randbytes(8)
            case 2:
                damaged.insert(at, chance.randrange(256))
            case 3:
                del damaged[at]
            case _:
                damaged[at : at + 8] = chance.choice(NUMBERS).to_bytes(8, "little")
    return bytes(damaged)


def _one(entries: dict[str, Any], chance: Random) -> str:
    return chance.choice([name for name in entries if name != "__metadata__"])


def _flipped(entries: dict[str, Any], size: int, chance: Random) -> tuple[bytes, int]:
    return damage_bytes(json.dumps(entries).encode(), chance), size


def _shape(entries: dict[str, Any], size: int, chance: Random) -> tuple[bytes, int]:
    """Of another shape: with the bytes that it takes behind the others, or without."""
    entry = entries[_one(entries, chance)]
    shape: list[Any] = entry["shape"]
    match chance.randrange(6):
        case 0:
            shape.reverse()
        case 1:
            shape.append(chance.choice(NUMBERS))
        case 2:
            shape[:] = shape[:-1]
        case 3:
            shape[:] = [chance.choice((*NUMBERS, *ODD)) for _ in range(chance.randrange(10))]
        case 4:
            shape[:] = [1, *shape]
        case _:
            shape[:] = [chance.choice(NUMBERS), 0]
    count = 1
    for length in shape:
        count *= length if type(length) is int else 1
    taken = count * BYTES[entry["dtype"]]
    if taken < 1 << 34 and chance.random() < 0.8:
        entry["data_offsets"] = [size, size + max(0, taken)]
        size += max(0, taken)
    return json.dumps(entries).encode(), size


def _dropped(entries: dict[str, Any], size: int, chance: Random) -> tuple[bytes, int]:
    for _ in range(chance.choice((1, 1, 1, 2, 20))):
        if len(entries) > 2:
            del entries[_one(entries, chance)]
    return json.dumps(entries).encode(), size


def _duplicated(entries: dict[str, Any], size: int, chance: Random) -> tuple[bytes, int]:
    name = _one(entries, chance)
    text = json.dumps(entries)
    return f"{text[:-1]}, {json.dumps(name)}: {json.dumps(entries[_one(entries, chance)])}}}".encode(), size


def _renamed(entries: dict[str, Any], size: int, chance: Random) -> tuple[bytes, int]:
    name = _one(entries, chance)
    parts = name.split(".")
    at = chance.randrange(len(parts))
    parts[at] = chance.choice((parts[at] + "x", parts[at][:-1], "999999999", "1", "0", "weight", "é", "(a+)+$", ""))
    new = chance.choice((".".join(parts), ".".join(parts), _one(entries, chance), "x." * 300 + name, name.upper()))
    return json.dumps({new if key == name else key: entry for key, entry in entries.items()}).encode(), size


def _moved(entries: dict[str, Any], size: int, chance: Random) -> tuple[bytes, int]:
    entry = entries[_one(entries, chance)]
    by = chance.choice((1, -1, 64, -64, *NUMBERS))
    entry["data_offsets"] = [offset + by for offset in entry["data_offsets"]]
    if chance.random() < 0.3:
        entry["data_offsets"][chance.randrange(2)] = chance.choice((*NUMBERS, *ODD))
    return json.dumps(entries).encode(), size


def _typed(entries: dict[str, Any], size: int, chance: Random) -> tuple[bytes, int]:
    entry = entries[_one(entries, chance)]
    before, entry["dtype"] = entry["dtype"], chance.choice((*TYPES, *ODD))
    start, end = entry["data_offsets"]
    taken = (end - start) // BYTES[before] * BYTES.get(str(entry["dtype"]), 1)
    entry["data_offsets"] = [size, size + taken]
    return json.dumps(entries).encode(), size + taken


def _described(entries: dict[str, Any], size: int, chance: Random) -> tuple[bytes, int]:
    """Other metadata."""
    name = chance.choice(("config", "format", "modelspec.architecture", "_quantization_metadata", "x"))
    entries["__metadata__"] = {name: chance.choice((*VALUES, *ODD))}
    if chance.random() < 0.2:
        entries["__metadata__"] = chance.choice(ODD)
    return json.dumps(entries).encode(), size


_WAYS = {
    "truncated": lambda entries, size, _chance: (json.dumps(entries).encode(), size),
    "bytes": _flipped, "shape": _shape, "dropped": _dropped, "duplicated": _duplicated, "renamed": _renamed,
    "moved": _moved, "type": _typed, "metadata": _described,
}  # fmt: skip
