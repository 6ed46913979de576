"""What a conversion did, and what it left as it was and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Converted:
    """A loader that became one of this pack."""

    node: str
    before: str  # class
    after: str
    notes: tuple[str, ...] = ()  # what of it has no like, in sentences

    @property
    def words(self) -> str:
        """A sentence."""
        return f"{self.before} (node {self.node}) is now {self.after}."


@dataclass(frozen=True)
class Kept:
    """A loader that stays as it is."""

    node: str
    class_type: str
    why: str  # a sentence without its subject

    @property
    def words(self) -> str:
        """A sentence."""
        return f"{self.class_type} (node {self.node}) {self.why}"


@dataclass(frozen=True)
class Report:
    """What became of each loader of a workflow."""

    converted: tuple[Converted, ...] = ()
    kept: tuple[Kept, ...] = ()

    def lines(self) -> list[str]:
        """Sentences for the user."""
        swapped = [line for each in self.converted for line in (each.words, *each.notes)]
        return [*swapped, *(each.words for each in self.kept)]

    def to_json(self) -> dict[str, Any]:
        """As API callers and the editor get it."""
        return {
            "converted": [
                {"node": each.node, "from": each.before, "to": each.after, "words": each.words, "notes": [*each.notes]}
                for each in self.converted
            ],
            "kept": [{"node": each.node, "class_type": each.class_type, "why": each.words} for each in self.kept],
        }
