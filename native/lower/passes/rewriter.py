"""Walk over a finished table and build it anew, an operation at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ...program.builder import Builder

Rule = Callable[[int], int | None]  # a tensor of the old table -> what takes its place; None: the same on new sources


def needed(b: Builder, outputs: Sequence[int]) -> list[int]:
    """The tensors that the outputs hang on, themselves included, in the order of the table."""
    found: set[int] = set()
    stack = list(outputs)
    while stack:
        index = stack.pop()
        if index not in found:
            found.add(index)
            stack.extend(b[index].sources)
    return sorted(found)


def users(b: Builder, indices: Sequence[int], outputs: Sequence[int]) -> dict[int, list[int]]:
    """Which of these tensors take each of them as a source; an output has a user of -1 besides."""
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
        """Build every tensor anew, in order; what hangs on nothing new stays as it is."""
        for old in indices:
            self.b.module_path = self.b.module_paths[old]
            made = rule(old)
            self._new[old] = self.again(old, self.b[old].sources) if made is None else made

    def again(self, old: int, sources: Sequence[int]) -> int:
        """An operation on the new tensors of these old sources."""
        changed = tuple(self._new[source] for source in sources)
        if changed == self.b[old].sources:
            return old
        return self.b.add(replace(self.b[old], sources=changed))
