"""What stands for a value that the plan cannot know, and what is taken in its place."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...native.engines.dry_run import Recorder


@dataclass(frozen=True)
class Unknown:
    """why: in words, as the end of a sentence. tokens: of a text, at most."""

    why: str
    tokens: int = 256


class Unplanned(Exception):
    """A node whose work cannot be planned; the message is an Unknown's why."""


@dataclass(frozen=True)
class Size:
    """What is taken for a picture or latent whose size cannot be known; in pixels, 0: it is left out of the plan."""

    width: int = 0
    height: int = 0
    batch: int = 1


@dataclass
class NodeTurn:
    """A node's turn: who notes its models' work, what is taken for unknown sizes, and what has been taken, in words."""

    recorder: Recorder
    unknown: Size
    taken: list[str] = field(default_factory=list)
