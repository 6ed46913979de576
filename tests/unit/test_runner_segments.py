"""Where a program is cut."""

from __future__ import annotations

from itertools import pairwise

import pytest

from native.program.ops import flops
from native.runner.device.quirks import CPU, GCN, INTEGRATED, OTHER, SOFTWARE, Traits
from native.runner.graph.segments import cuts
from tests.runner_toys import Table


def test_flops_of_what_matters() -> None:
    table = Table()
    x, w, image = table.input("x", (5, 8)), table.weight("w", (3, 8)), table.input("i", (4, 6, 6))
    kernel = table.weight("k", (2, 4, 3, 3))
    q, k = table.input("q", (2, 7, 16)), table.input("k", (2, 9, 16))
    expected = {
        table.op("mul_mat", (5, 3), w, x, with_=("F32",)): 2 * 5 * 3 * 8,
        table.op("conv_2d", (2, 6, 6), kernel, image, with_=(1, 1, 1, 1, 1, 1)): 2 * 2 * 36 * 4 * 9,
        table.op("flash_attn", (7, 2, 16), q, k, k, with_=(1.0,)): 2 * 2 * 7 * 9 * (16 + 16),
        table.op("add", (5, 8), x, x): 40,
        table.op("view", (5, 8), x, with_=(8, 5, 1, 1, 32, 160, 160, 0)): 0,
    }
    for index, amount in expected.items():
        row = table.rows[index]
        assert flops(row, [table.rows[source] for source in row.sources]) == amount


@pytest.mark.parametrize("traits", [OTHER, CPU, SOFTWARE, GCN, INTEGRATED])
def test_segments_cover_every_node_once_and_end_at_one(traits: Traits) -> None:
    amounts = [0.0, 1e10, 0.0, 3e9, 5e11, 0.0, 1e6] * 60
    ends = cuts(amounts, traits.largest_segment)
    assert [end for end, _ in ends] == sorted({end for end, _ in ends})
    assert ends[-1] == (len(amounts), 1.0)
    assert all(a < b for (_, a), (_, b) in pairwise(ends))


def test_a_long_program_has_many_segments_and_a_small_one_has_one() -> None:
    assert len(cuts([1e10] * 1000, OTHER.largest_segment)) >= 50
    assert len(cuts([1e12] * 300, CPU.largest_segment)) == 300
    assert cuts([1e5] * 3000, OTHER.largest_segment) == [(3000, 1.0)]
    assert cuts([], OTHER.largest_segment) == [(0, 1.0)]
    assert cuts([5e12, 0.0, 0.0], OTHER.largest_segment) == [(3, 1.0)]  # views are no work of their own
