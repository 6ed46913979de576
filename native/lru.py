"""A bounded mapping that forgets what was used least recently."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeVar

Kept = TypeVar("Kept")


def recall(kept: OrderedDict[Hashable, Kept], key: Hashable) -> Kept | None:
    """What was kept, now the last to go."""
    if key in kept:
        kept.move_to_end(key)
    return kept.get(key)


def keep(kept: OrderedDict[Hashable, Kept], key: Hashable, value: Kept, most: int) -> None:
    """Keep it, and of the others as many as make up `most` with it."""
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)
