"""The published peaks of cards, which measured rates stand beside."""

from __future__ import annotations

import json
import re
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")
_MARKS = re.compile(r"\((TM|R|tm)\)|NVIDIA|AMD|Intel|GeForce|Graphics", re.IGNORECASE)


def published_peak(description: str) -> tuple[float, float] | None:
    """F32 FLOP/s without matrix cores, and bytes/s, of the card that a driver calls so; None where it is not listed.

    A name that only begins like a listed one, as with "Super" or "Laptop" behind it, is another card.
    """
    name = " ".join(_MARKS.sub(" ", description).split())
    for row in json.loads(FILE.read_text(encoding="utf-8"))["cards"]:
        found = re.search(
            rf"\b{re.escape(row['pattern'])}\b(?! ?(Ti|XT|XTX|Super|Laptop|Mobile|Max|M)\b)", name, re.IGNORECASE
        )
        if found:
            return row["tflops"] * 1e12, row["gigabytes"] * 1e9
    return None
