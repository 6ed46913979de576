"""JSON files with an entry for each device, of which one kind of finding is kept between sessions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_FORMAT = 1
_LARGEST = 4 << 20  # bytes of a file that is read
_MOST = 64  # entries of a file


def read_entries(path: Path) -> list[Any]:
    """The entries of a file, as JSON has them; none where it cannot be read, as all of it can be found out again."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        if path.stat().st_size <= _LARGEST:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["format"] == _FORMAT and isinstance(held["devices"], list):
                return held["devices"]
    return []


def write_entries(path: Path, entries: Sequence[Any]) -> None:
    """Put the last of these into a file, in the place of all that it has. Raises OSError."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps({"format": _FORMAT, "devices": entries[-_MOST:]}, indent=1), encoding="utf-8")
    part.replace(path)
