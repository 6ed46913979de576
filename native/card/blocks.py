"""The blocks of models that a card check computes, as tables of operations made from ComfyUI's own classes.

`python -m tests.card_blocks` writes the tables. Every leaf of the programs here is a weight, so that a run carries
nothing to the device but what is loaded before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..program import Output, Program, Tensor
from ..program.ops import flops
from ..program.parameters import Nothing

FOLDER = Path(__file__).parent / "blocks"
NARROW, REAL, LARGE = "narrow", "real", "large"  # LARGE: as wide as REAL, with the tokens of a picture of 512 pixels


@dataclass(frozen=True)
class Work:
    """A program without inputs.

    values: of the weights that are not random. names: of its outputs, for messages. whole: of many operations in a row.
    """

    label: str
    program: Program
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    whole: bool = False

    @cached_property
    def flops(self) -> float:
        """Floating-point operations of all its rows."""
        rows = self.program.tensors
        return sum(flops(row, [rows[source] for source in row.sources]) for row in rows)


@dataclass(frozen=True)
class Block:
    """A model of one block of each kind, at several sizes."""

    name: str
    sizes: Mapping[str, Any] = field(repr=False)

    def work(self, size: str) -> Work:
        """The whole block."""
        stored = self.sizes[size]
        tensors = tuple(
            Tensor("op" if kind == "op" else "weight", name if kind in ("op", "weight") else f"{kind} {name}", type_,
                   tuple(ne), tuple(sources), tuple(parameters))
            for kind, name, type_, ne, sources, parameters in stored["rows"]
        )  # fmt: skip
        outputs = tuple(Output(index, tuple(reversed(tensors[index].ne))) for index in stored["outputs"])
        types = {row.name: "i4" if row.type == "I32" else "f4" for row in tensors}
        values = {
            f"constant {name}": np.array(values, types[f"constant {name}"])
            for name, values in stored["constants"].items()
        }
        return Work(
            self.name, Program(tensors, outputs), values, tuple(f"{self.name} as a whole" for _ in outputs), True
        )


def blocks() -> tuple[Block, ...]:
    """All blocks there are tables of."""
    read = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json")))
    return tuple(Block(each["name"], each["sizes"]) for each in read)


def timed(work: Work) -> Work:
    """The same with a mean of each output's rows in its place, so that hardly anything is carried back."""
    rows = list(work.program.tensors)
    outputs = []
    for output in work.program.outputs:
        ne = rows[output.tensor].ne
        rows.append(Tensor("op", "mean", "F32", (1, *ne[1:]), (output.tensor,), Nothing()))
        outputs.append(Output(len(rows) - 1, tuple(reversed(rows[-1].ne))))
    return Work(work.label, Program(tuple(rows), tuple(outputs)), work.values, work.names, work.whole)
