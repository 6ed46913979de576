"""Says on a loader node, and in the log, what a file was found to hold."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod

from comfy_api.latest import io

from ...native.ggml_build import build_words
from ...native.placement import MIB
from ...native.weights import WeightSet
from ...native.weights.weight_set import ARRAY_TYPES
from ..node_text import show

log = logging.getLogger(__name__)
WORTH_NAMING = 0.01  # of the bytes: vectors in F32 beside quantized matrices go without saying


def found(family: str, weights: Sequence[WeightSet]) -> str:
    """A loaded part in words, such as "SDXL: 2,567 M parameters, F16, 4,897 MiB".

    family: core's class of it. Types are those in the file, of most bytes first.
    """
    bytes_by_type: Counter[str] = Counter()
    count = 0
    for each in weights:
        for parameter in each.parameters.values():
            bytes_by_type[parameter.stored] += parameter.nbytes
            count += prod(parameter.shape)
        for array in each.arrays.values():  # computed from the file's, which stores them in another layout
            bytes_by_type["converted" if each.parameters else ARRAY_TYPES[str(array.dtype)]] += array.nbytes
            count += array.size
    total = bytes_by_type.total()
    types = [stored for stored, nbytes in bytes_by_type.most_common() if nbytes >= WORTH_NAMING * total]
    millions = f"{count / 1e6:,.0f}" if count >= 1e7 else f"{count / 1e6:.1f}"
    return f"{family}: {millions} M parameters, {' and '.join(types)}, {total / MIB:,.0f} MiB"


def say(node: type[io.ComfyNode], lines: Iterable[str], warnings: Sequence[str] = ()) -> None:
    """Shows what was found, warnings, and which ggml computes, below the widgets of the executing node and in the log.

    Nothing where the node is called for a plan.
    """
    if node.hidden is None:
        return
    lines = list(lines)
    build, best = build_words()
    if best:
        lines.append(build)
    else:
        warnings = [*warnings, build]
    for line in lines:
        log.info(line)
    for warning in warnings:
        log.warning(warning)
    show(node, "\n".join([*lines, *warnings]))
