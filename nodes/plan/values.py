"""What stands for a value that the plan cannot know."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unknown:
    """why: in words, as the end of a sentence."""

    why: str


class Unplanned(Exception):
    """A node whose work cannot be planned; the message is an Unknown's why."""
