"""Runs that follow one another, in which a program's inputs that it writes into stay on the device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """A run of a series in which inputs that the program writes into stay on the device; number: from 1 on.

    series: its name, which no other has; "": a run of none.
    """

    series: str = ""
    number: int = 0


NO_TURN = Turn()
