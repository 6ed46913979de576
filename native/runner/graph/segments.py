"""Cuts a graph into segments, between which a run can be interrupted and weights can be streamed."""

from __future__ import annotations

import ctypes
from collections.abc import Collection
from typing import Any

from ..ggml_binding import ggml


def layout_is_known(graph: Any) -> bool:
    """Whether this ggml's graphs have the layout of the binding's structure; graph: one without nodes yet."""
    whole = graph.contents
    nodes = ggml.ggml_graph_nodes(graph).contents
    fields = whole.size, whole.n_nodes, ctypes.addressof(whole.nodes.contents)
    return fields == (ggml.ggml_graph_size(graph), 0, ctypes.addressof(nodes))


def part(graph: Any, start: int, end: int) -> Any:
    """Consecutive nodes of a graph, of the same allocation.

    As ggml_graph_view, which ggml's header does not export: the same nodes, use counts and hash table, so that a
    backend fuses inside a part as it does in the graph. (A graph filled with ggml_graph_add_node has no use counts:
    nothing is fused, and nodes lack the flag that says to compute them.)
    """
    made = type(graph).from_buffer_copy(graph)
    made.size = made.n_leafs = made.uid = 0
    made.n_nodes = end - start
    first = ctypes.addressof(graph.nodes.contents) + start * ctypes.sizeof(ctypes.c_void_p)
    made.nodes = ctypes.cast(first, type(graph.nodes))
    made.leafs = made.grads = made.grad_accs = None
    return made


def segments_of(graph: Any, parts: list[tuple[int, float]]) -> list[tuple[Any, float]]:
    """The graph as consecutive parts."""
    segments: list[tuple[Any, float]] = []
    start = 0
    for end, fraction in parts:
        if end == start:  # a program without operations
            break
        segments.append((part(graph, start, end), fraction))
        start = end
    return segments


_PARTS = 50  # a run is interrupted within this fraction of it
_SMALLEST = 2e9  # operations; below this the cost of a cut (a wait for the device) would be measurable


def cuts(amounts: list[float], largest: float, stops: Collection[int] = ()) -> list[tuple[int, float]]:
    """The end of each segment (index after its last node), and the fraction of the run that is then done.

    amounts: floating-point operations of each node; largest: of a segment; stops: nodes before which a segment ends in
    any case. Never depends on measured time: nothing is fused across a cut, and a seed must always give one picture.
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
