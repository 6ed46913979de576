"""Measures the time of every operation of a run, each computed alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter, process_time

import numpy as np

from ...placement import CPU
from .execute import compute, set_inputs
from .graph import Graph
from .segments import part


def seconds_of_rows(
    graph: Graph,
    arena: np.ndarray,
    inputs: Mapping[str, tuple[int, int]],
    interrupted: Callable[[], bool],
    progress: Callable[[float], None],
) -> dict[int, float]:
    """Seconds of every operation of a run on `inputs`, by its row of the program's table.

    Each operation is submitted and waited for: nothing is fused, and the cost of a submission is in every figure.
    Raises as `execute` does.
    """
    set_inputs(graph, arena, inputs)
    # Of one thread the processor's time, which what else the machine does hardly makes longer.
    alone = graph.device.type == CPU and graph.device.limits.threads == 1
    clock = process_time if alone else perf_counter
    seconds: dict[int, float] = {}
    rows = iter(graph.row_of_node)
    for number, (segment, fraction) in enumerate(graph.segments):
        if graph.stream:
            graph.stream.wait(number)
        for node in range(segment.n_nodes):
            row = next(rows, -1)
            if row >= 0:
                start = clock()
                compute(graph, part(segment, node, node + 1), interrupted)
                seconds[row] = seconds.get(row, 0.0) + clock() - start
        if graph.stream:
            graph.stream.leave(number)
        progress(fraction)
    return seconds
