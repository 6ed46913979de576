"""Copies a small part of a large tensor that is needed long after the rest, so that the memory of the rest is free.

Models that walk through a video in chunks keep the last frames of a chunk for the next one; as a view these would keep
all of its frames.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from .ops import is_view
from .tensor import Tensor, nbytes

_LEAST_BYTES = 1 << 20  # of a tensor worth it
_PART = 0.5  # of the tensor is at most copied
_LATE = 32  # times its bytes are at least computed before the part is needed


@dataclass(frozen=True, slots=True)
class _Use:
    """An operation that reads a tensor, whole or as a view: their indices, and the operation's place in the order."""

    place: int
    user: int
    source: int


def copy_early(
    tensors: list[Tensor], module_paths: list[str], order: Sequence[int], outputs: Collection[int]
) -> list[int]:
    """The order with such copies in it, which are appended to the table; their users are changed there."""
    roots = _roots(tensors, order)
    computed, bytes_before = 0, []
    for index in order:
        bytes_before.append(computed)
        computed += 0 if is_view(tensors[index]) else nbytes(tensors[index])
    kept = {roots[output] for output in outputs}
    added: dict[int, list[int]] = {}  # tensors that follow after a place
    for root, uses in _uses(tensors, order, roots).items():
        late = _late(tensors, root, uses, bytes_before) if root not in kept else []
        for source in dict.fromkeys(use.source for use in late):
            last = uses[len(uses) - len(late) - 1].place
            added.setdefault(last, []).extend(_copied(tensors, root, source))
            module_paths.extend([module_paths[root]] * (len(tensors) - len(module_paths)))
            for use in late:
                if use.source == source:
                    _redirect(tensors, use.user, source, len(tensors) - 1)
    if not added:
        return [*order]
    return _needed(
        tensors, [each for place, index in enumerate(order) for each in (index, *added.get(place, ()))], outputs
    )


def _roots(tensors: Sequence[Tensor], order: Sequence[int]) -> dict[int, int]:
    """The tensor whose memory each one shows."""
    roots: dict[int, int] = {}
    for index in order:
        roots[index] = roots[tensors[index].sources[0]] if is_view(tensors[index]) else index
    return roots


def _uses(tensors: Sequence[Tensor], order: Sequence[int], roots: dict[int, int]) -> dict[int, list[_Use]]:
    """The uses of each large result of an operation, in order."""
    found: dict[int, list[_Use]] = {}
    for place, index in enumerate(order):
        row = tensors[index]
        if row.kind != "op" or is_view(row):
            continue
        if row.type == "F32" and nbytes(row) >= _LEAST_BYTES:
            found[index] = []
        for source in row.sources:
            if roots[source] in found:
                found[roots[source]].append(_Use(place, index, source))
    return found


def _late(tensors: Sequence[Tensor], root: int, uses: Sequence[_Use], bytes_before: Sequence[int]) -> list[_Use]:
    """The last uses, where they are of a small part and long after those before them."""
    size = nbytes(tensors[root])
    for first in range(len(uses) - 1, 0, -1):
        parts = {use.source for use in uses[first:]}
        if sum(nbytes(tensors[part]) for part in parts) > _PART * size:
            return []
        if bytes_before[uses[first].place] - bytes_before[uses[first - 1].place] >= _LATE * size:
            return [*uses[first:]]
    return []


def _copied(tensors: list[Tensor], root: int, source: int) -> list[int]:
    """A copy of a view, after views like those that lead to it: new tensors, which need nothing but the root."""
    chain = [source]
    while tensors[chain[-1]].sources[0] != root:
        chain.append(tensors[chain[-1]].sources[0])
    first, last = len(tensors), root
    for index in reversed(chain):
        tensors.append(replace(tensors[index], sources=(last,)))
        last = len(tensors) - 1
    tensors.append(Tensor("op", "cont", tensors[source].type, tensors[source].ne, (last,)))
    return [*range(first, len(tensors))]


def _redirect(tensors: list[Tensor], user: int, source: int, copy: int) -> None:
    row = tensors[user]
    tensors[user] = replace(row, sources=tuple(copy if each == source else each for each in row.sources))


def _needed(tensors: Sequence[Tensor], order: Sequence[int], outputs: Collection[int]) -> list[int]:
    """The order without the views that nothing reads any more."""
    needed = set(outputs)
    for index in reversed(order):
        if index in needed:
            needed.update(tensors[index].sources)
    return [index for index in order if index in needed]
