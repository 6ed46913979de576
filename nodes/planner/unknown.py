"""Values that a plan cannot know, the sizes to plan with instead, and how rules read inputs that may be unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...native.engines.dry_run import Recorder

Inputs = Mapping[str, Any]
Outputs = tuple[Any, ...]


@dataclass(frozen=True)
class Unknown:
    """An input or output whose value is only known when the workflow runs."""

    why: str  # the end of a sentence
    tokens: int = 256  # of a text, at most
    foreign: bool = False  # a model of others, or what comes of one: its memory is no part of a plan


class Unplanned(Exception):
    """A node whose work cannot be planned. The message is an Unknown's `why`."""

    def __init__(self, why: str, foreign: bool = False) -> None:
        """foreign: as Unknown's."""
        super().__init__(why)
        self.foreign = foreign


@dataclass(frozen=True)
class Size:
    """The size to plan with for images and latents of unknown size."""

    width: int = 0  # pixels; 0: what depends on it is left out of the plan
    height: int = 0
    batch: int = 1


@dataclass
class NodeTurn:
    """The context in which a rule plans a node."""

    recorder: Recorder
    unknown: Size
    assumptions: list[str] = field(default_factory=list)  # what the rule planned with, in words


Rule = Callable[[Inputs, NodeTurn], Outputs]


def known(inputs: Inputs, name: str) -> Any:
    """The value of an input. Raises Unplanned for one that is unknown or missing."""
    if name not in inputs:
        raise Unplanned(f"its input {name} is missing")
    value = inputs[name]
    if isinstance(value, Unknown):
        raise Unplanned(value.why, value.foreign)
    return value


def all_known(inputs: Inputs) -> dict[str, Any]:
    """The values of all inputs. Raises Unplanned where one is unknown."""
    return {name: known(inputs, name) for name in inputs}
