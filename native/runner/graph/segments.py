"""Where a graph is cut, so that an interruption is never far and weights can stream in between."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from typing import Any

from ..ggml_binding import ggml


def _layout_is_known(graph: Any) -> bool:
    """Whether this ggml lays out its graphs as the binding's structure says; seen before any node is in it."""
    whole = graph.contents
    nodes = ggml.ggml_graph_nodes(graph).contents
    fields = whole.size, whole.n_nodes, ctypes.addressof(whole.nodes.contents)
    return fields == (ggml.ggml_graph_size(graph), 0, ctypes.addressof(nodes))


def part(whole: Any, start: int, end: int) -> Any:
    """Consecutive nodes of a graph, of the same allocation.

    It is what ggml_graph_view makes, by hand because ggml's header does not export that function: the same nodes, use
    counts and hash table, so that a backend fuses inside a part as in the whole. (A graph filled with
    ggml_graph_add_node has no use counts: nothing is fused, and nodes lack the flag that says to compute them.)
    """
    made = type(whole).from_buffer_copy(whole)
    made.size = made.n_leafs = made.uid = 0
    made.n_nodes = end - start
    first = ctypes.addressof(whole.nodes.contents) + start * ctypes.sizeof(ctypes.c_void_p)
    made.nodes = ctypes.cast(first, type(whole.nodes))
    made.leafs = made.grads = made.grad_accs = None
    return made


def _segments(whole: Any, parts: list[tuple[int, float]]) -> list[tuple[Any, float]]:
    """The graph as consecutive parts."""
    segments: list[tuple[Any, float]] = []
    start = 0
    for end, fraction in parts:
        if end == start:  # a program without operations
            break
        segments.append((part(whole, start, end), fraction))
        start = end
    return segments


_PARTS = 50  # an interruption is honoured within this part of a run
_SMALLEST = 2e9  # operations; below this the cost of a cut (a wait for the device) would show


def cuts(amounts: list[float], largest: float, stops: Collection[int] = ()) -> list[tuple[int, float]]:
    """Where to end each segment (index after its last node) and which fraction of the run is then done.

    stops: nodes before which a segment ends in any case.
    Never depends on measured time: what a backend fuses ends at a cut, and the same seed must give the same picture.
    """
    total = sum(amounts)
    flops_per_segment = min(max(total / _PARTS, _SMALLEST), largest)
    ends, held, done = [], 0.0, 0.0
    for index, amount in enumerate(amounts):
        if held and (index in stops or (amount and held + amount > flops_per_segment)):
            ends.append((index, done / total))
            held = 0.0
        held += amount
        done += amount
    return [*ends, (len(amounts), 1.0)]
