"""The program of FLUX.1 at 12 B parameters and 1024x1024, from shapes alone: how large, how many operations."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch

from native.lower import Lowered, LowerOptions, WeightType, lower
from native.program import Tensor
from native.program.ops import is_view
from native.program.tensor import nbytes
from native.trace import Trace, trace
from tests.bench import hollow
from tests.runner_toys import new_runner

FLUX = hollow.MODELS["flux"]


@pytest.fixture(scope="module")
def traced() -> Trace:
    torch.manual_seed(0)
    return trace("FLUX.1", FLUX.build(None).eval(), FLUX.function, FLUX.inputs(1024))


@pytest.fixture(scope="module")
def weights() -> dict[str, WeightType]:
    return {name: WeightType(kind, shape) for name, (shape, kind) in hollow.types(FLUX.build(None), "Q4_K").items()}


@pytest.fixture(scope="module")
def lowered(traced: Trace, weights: dict[str, WeightType]) -> Lowered:
    return lower(traced, weights)


def _operations(lowered: Lowered, block: str) -> Counter[str]:
    """Counts a block's ggml operations by name."""
    placed = zip(lowered.program.tensors, lowered.module_paths, strict=True)
    inside = [row for row, module_path in placed if module_path == block or module_path.startswith(f"{block}.")]
    return Counter(row.name for row in inside if row.kind == "op" and not is_view(row))


def test_no_tensor_passes_2_gib(lowered: Lowered) -> None:
    """Drivers that cap a buffer can run it: nothing it makes is larger than one activation of 4,352 tokens."""
    largest = max(lowered.program.tensors, key=nbytes)
    assert nbytes(largest) < 2 << 30
    assert _largest_activation(lowered) <= 4 * 3072 * 4352


def test_compute_buffer(lowered: Lowered, traced: Trace, weights: dict[str, WeightType]) -> None:
    """Less than six activations of 4,352 tokens; in one piece it takes fifteen."""
    whole = lower(traced, weights, LowerOptions(chunk_threshold_bytes=1 << 60))
    runner = new_runner()
    parts, piece = (runner.estimate("FLUX.1", "CPU", each.program).compute for each in (lowered, whole))
    runner.close()
    assert parts <= 310e6
    assert piece >= 800e6


def _largest_activation(lowered: Lowered) -> int:
    def own(row: Tensor) -> bool:
        return row.kind == "op" and not is_view(row)

    return max(nbytes(row) for row in lowered.program.tensors if own(row))


@pytest.mark.parametrize(("block", "most"), [("double_blocks.7", 64), ("single_blocks.20", 25)])
def test_operations_of_a_block(block: str, most: int, traced: Trace, weights: dict[str, WeightType]) -> None:
    """In one piece, as at small sizes: four rotations, a norm and its scale side by side, no copy but the joins."""
    whole = lower(traced, weights, LowerOptions(chunk_threshold_bytes=1 << 60))
    counts = _operations(whole, block)
    assert counts["rope"] == 4
    assert counts["cont"] == counts["repeat"] == 0
    assert counts["concat"] == (3 if block.startswith("double") else 1)
    assert counts["cast"] == 2  # keys and values, to F16
    assert counts.total() <= most
    _assert_norms_are_scaled(whole)


def test_operations_in_parts(lowered: Lowered) -> None:
    """Operations of one block when chunks of tokens keep the compute buffer small."""
    assert _operations(lowered, "double_blocks.7").total() <= 103
    assert _operations(lowered, "single_blocks.20").total() <= 73
    assert _operations(lowered, "single_blocks.20")["rope"] == 4
    _assert_norms_are_scaled(lowered)


def _assert_norms_are_scaled(lowered: Lowered) -> None:
    """Every RMS norm stands right before its scale, which alone takes it: ggml's backends fuse the two then."""
    rows = lowered.program.tensors
    nodes = [index for index, row in enumerate(rows) if row.kind == "op"]
    for index, after in pairwise(nodes):
        if rows[index].name == "rms_norm":
            assert rows[after].name == "mul"
            assert rows[after].sources[0] == index
            assert rows[after].ne == rows[index].ne
