"""Rebuilds a finished table one operation at a time, with a rule for the operations that change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...program.builder import Builder

Rule = Callable[[int], int | None]  # a tensor of the old table -> its replacement; None: the same on new sources


def needed(b: Builder, outputs: Sequence[int]) -> list[int]:
    """The tensors that the outputs are computed from, themselves included, in the order of the table."""
    found: set[int] = set()
    stack = list(outputs)
    while stack:
        index = stack.pop()
        if index not in found:
            found.add(index)
            stack.extend(b[index].sources)
    return sorted(found)


def users(b: Builder, indices: Sequence[int], outputs: Sequence[int]) -> dict[int, list[int]]:
    """The users of each of these tensors: those that take it as a source, and -1 for an output of the program."""
    found: dict[int, list[int]] = {index: [] for index in indices}
    for index in indices:
        for source in b[index].sources:
            found[source].append(index)
    for output in outputs:
        found[output].append(-1)
    return found


class Rewriting:
    """One pass over a table. Rules ask it for the new tensor of an old one; new tensors are appended to the builder."""

    def __init__(self, b: Builder) -> None:
        self.b = b
        self._new: dict[int, int] = {}

    def __getitem__(self, old: int) -> int:
        return self._new[old]

    def run(self, indices: Sequence[int], rule: Rule) -> None:
        """Build every tensor anew, in order; a tensor whose sources stay the same stays as it is."""
        for old in indices:
            self.b.module_path = self.b.module_paths[old]
            made = rule(old)
            self._new[old] = self._again(old) if made is None else made

    def _again(self, old: int) -> int:
        sources = self.b[old].sources
        changed = tuple(self._new[source] for source in sources)
        return old if changed == sources else self.b.again(old, changed)
